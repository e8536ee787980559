/* The first and only process of the test guest. Its words come from the kernel's command line:
 *
 *   fill=64M   memory that it fills              rate=0     bytes a second that are written anew
 *   check=16M  bytes a second that are verified  beat=100   milliseconds between two lines
 *   noise=40   percent of each page that does not compress
 *   disk=1     write the number of each line to /dev/vda, and read it back
 *   content=/dev/vda   fill with what is on that disk, instead of the pattern of numbers and noise
 *   table=50   percent of it that is a table of keys and values, each in a slot of 512 bytes
 *   sets=2000  values a second that are replaced     brief=10   only every 10th line is whole
 *
 * Memory is cut in as many parts as there are processors; a thread for each rewrites pages of its part at
 * random and checks others in turn, every word of them. A word that is wrong is told loudly, and ends all.
 * A line looks so, with times in milliseconds by the guest's own clock (which stands still with the machine);
 * the others end after their number:
 *
 *   beat 17 up 2513 written 1024 checked 4096 gap 101 disk 17
 *
 * The word "verify" on the second serial port makes it check everything at once and say: verified 16384 pages
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "memory.h"

#define STEP (1 << 20)
#define MAX_PARTS 64
#define IDLE_TICK_MS 100 /* waking up costs an emulated processor a millisecond */

static struct part parts[MAX_PARTS];
static long threads;
static atomic_ulong wanted, proved; /* checks of everything: asked for, and done by any part */

void fail(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    printf("\nWRONG ");
    vprintf(format, list);
    printf("\n");
    fflush(stdout);
    for (;;)
        pause();
}

static void nap(struct timespec *when, long ms)
{
    struct timespec now;
    when->tv_nsec += ms * 1000000;
    while (when->tv_nsec >= 1000000000) {
        when->tv_nsec -= 1000000000;
        when->tv_sec++;
    }
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec > when->tv_sec + 1) /* late: an emulated machine; do not catch up */
        *when = now;
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, when, NULL);
}

static void *work(void *argument)
{
    struct part *part = argument;
    struct work state = {.random = mix(part->first + 1)};
    struct timespec when;
    unsigned long done = 0;
    long tick = part->write_rate + part->set_rate + part->check_rate > 0 ? TICK_MS : IDLE_TICK_MS;
    clock_gettime(CLOCK_MONOTONIC, &when);
    for (;;) {
        do_tick(part, &state);
        if (atomic_load(&wanted) != done) {
            check_all(part);
            done++;
            atomic_fetch_add(&proved, 1);
        }
        nap(&when, tick);
    }
    return NULL;
}

static FILE *port;

/* The second serial port, if there is one: before the first beat, since a port that nobody has open drops what comes. */
static void open_port(void)
{
    struct termios how;
    port = fopen("/dev/ttyS1", "re");
    if (port && !tcgetattr(fileno(port), &how)) {
        how.c_lflag &= ~(tcflag_t)ECHO;
        tcsetattr(fileno(port), TCSANOW, &how);
    }
}

/* Takes words from it; the only word asks for a check of everything. */
static void *listen(void *argument)
{
    char line[64];
    while (port && fgets(line, sizeof line, port)) {
        if (strncmp(line, "verify", 6))
            continue;
        unsigned long ending = atomic_fetch_add(&wanted, 1) + 1;
        while (atomic_load(&proved) < ending * (unsigned long)threads)
            usleep(TICK_MS * 1000);
        printf("verified %lu pages\n", *(uint64_t *)argument);
    }
    return NULL;
}

static double number(const char *name, double otherwise)
{
    const char *text = getenv(name);
    if (!text)
        return otherwise;
    char *end;
    double value = strtod(text, &end);
    switch (*end) {
    case 'G':
        value *= 1024; /* fall through */
    case 'M':
        value *= 1024; /* fall through */
    case 'K':
        value *= 1024;
    }
    return value;
}

/* They are named in the order in which they need each other. */
static void load_modules(void)
{
    struct dirent **names;
    int count = scandir("/modules", &names, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        char path[sizeof names[i]->d_name + 16];
        snprintf(path, sizeof path, "/modules/%s", names[i]->d_name);
        int file = open(path, O_RDONLY | O_CLOEXEC);
        if (names[i]->d_name[0] != '.' && syscall(SYS_finit_module, file, "", 0) && errno != EEXIST)
            printf("module %s: %s\n", names[i]->d_name, strerror(errno));
        close(file);
    }
}

static int open_disk(const char *path, int how)
{
    for (int tries = 0; tries < 500; tries++) {
        int disk = open(path, how | O_DIRECT | O_CLOEXEC);
        if (disk >= 0)
            return disk;
        usleep(10000);
    }
    fail("there is no disk %s: %s", path, strerror(errno));
}

/* Read the disk into memory, again and again until that is full. Returns how many pages are on it. */
static uint64_t read_content(const char *path, uint64_t *pages, uint64_t count)
{
    int disk = open_disk(path, O_RDONLY);
    uint64_t size = (uint64_t)lseek(disk, 0, SEEK_END) / STEP * STEP, done = 0;
    if (!size)
        fail("%s holds less than %d bytes", path, STEP);
    while (done < count * PAGE) {
        uint64_t step = count * PAGE - done < STEP ? count * PAGE - done : STEP;
        if (pread(disk, (char *)pages + done, step, (off_t)(done % size)) != (ssize_t)step)
            fail("reading %s: %s", path, strerror(errno));
        done += step;
    }
    close(disk);
    return size / PAGE;
}

/* Write the beat's number to a sector of its own among 1024, and see that the one before is there. */
static void use_disk(int disk, uint64_t *buffer, uint64_t beat)
{
    if (beat > 1) {
        if (pread(disk, buffer, 512, (off_t)((beat - 1) % 1024 * 512)) != 512)
            fail("reading the disk: %s", strerror(errno));
        if (buffer[0] != beat - 1 || buffer[63] != mix(beat - 1))
            fail("disk: beat %lu is there, it should be %lu", buffer[0], beat - 1);
    }
    memset(buffer, 0, 512);
    buffer[0] = beat;
    buffer[63] = mix(beat);
    if (pwrite(disk, buffer, 512, (off_t)(beat % 1024 * 512)) != 512)
        fail("writing the disk: %s", strerror(errno));
}

static long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void start_thread(void *(*function)(void *), void *argument)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, function, argument))
        fail("no thread: %s", strerror(errno));
}

/* Cut memory in parts and fill it. Returns the number of pages. */
static uint64_t fill_memory(void)
{
    uint64_t count = (uint64_t)number("fill", 64 << 20) / PAGE, on_disk = 0;
    double ticks = 1000.0 / TICK_MS * (double)threads, table = number("table", 0) / 100;
    const char *content = getenv("content");
    uint64_t *pages = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint32_t *versions = calloc(count, sizeof *versions);
    uint64_t *sums = content ? calloc(count, sizeof *sums) : NULL;
    if (count < MAX_PARTS || pages == MAP_FAILED || !versions || (content && !sums))
        fail("no memory for %lu pages", count);
    noise_words = (long)(number("noise", 40) * WORDS / 100);
    printf("filling %lu pages\n", count);
    if (content)
        on_disk = read_content(content, pages, count);
    for (long i = 0; i < threads; i++) {
        uint64_t first = count * (uint64_t)i / (uint64_t)threads;
        uint64_t stop = count * (uint64_t)(i + 1) / (uint64_t)threads;
        struct part *part = &parts[i];
        *part = (struct part){.pages = pages + first * WORDS,
                              .versions = versions + first,
                              .sums = content ? sums + first : NULL,
                              .first = first,
                              .count = stop - first,
                              .table = stop - first,
                              .write_rate = number("rate", 0) / PAGE / ticks,
                              .check_rate = number("check", 16 << 20) / PAGE / ticks};
        if (content && table > 0) {
            part->table -= (uint64_t)((double)part->count * table);
            part->set_rate = number("sets", 0) / ticks;
        }
        for (uint64_t page = 0; page < part->count; page++)
            begin_page(part, page, content ? (first + page) / on_disk : 0);
    }
    return count;
}

int main(void)
{
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    mount("proc", "/proc", "proc", 0, NULL);
    int console = open("/dev/console", O_RDWR);
    for (int target = 0; console >= 0 && target < 3; target++)
        dup2(console, target);
    setvbuf(stdout, NULL, _IOLBF, 0);
    load_modules();

    threads = sysconf(_SC_NPROCESSORS_ONLN);
    if (threads > MAX_PARTS)
        threads = MAX_PARTS;
    long beat_ms = (long)number("beat", 100), brief = (long)number("brief", 1);
    int disk = number("disk", 0) ? open_disk("/dev/vda", O_RDWR | O_DSYNC) : -1;
    uint64_t *buffer = aligned_alloc(PAGE, PAGE);
    uint64_t count = fill_memory();
    printf("running on %ld processors\n", threads);
    for (long i = 0; i < threads; i++)
        start_thread(work, &parts[i]);
    open_port();
    start_thread(listen, &count);

    struct timespec when;
    clock_gettime(CLOCK_MONOTONIC, &when);
    long last = now_ms();
    for (uint64_t beat = 1;; beat++) {
        nap(&when, beat_ms);
        long now = now_ms();
        if (disk >= 0)
            use_disk(disk, buffer, beat);
        if (brief > 1 && beat % (uint64_t)brief) {
            printf("beat %lu\n", beat);
        } else {
            printf("beat %lu up %ld written %lu checked %lu gap %ld", beat, now, atomic_load(&written),
                   atomic_load(&checked), now - last);
            if (disk >= 0)
                printf(" disk %lu", beat);
            printf("\n");
        }
        last = now;
    }
}
