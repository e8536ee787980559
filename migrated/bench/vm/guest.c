/* The first and only process of the test guest. Its words come from the kernel's command line:
 *
 *   fill=64M   memory that holds the pattern     rate=0     bytes a second that are written anew
 *   check=16M  bytes a second that are verified  beat=100   milliseconds between two lines
 *   noise=40   percent of each page that does not compress
 *   disk=1     write the number of each line to /dev/vda, and read it back
 *
 * Memory is cut in as many parts as there are processors; a thread for each rewrites pages of its part at
 * random and checks others in turn, every word of them. A word that is wrong is told loudly, and ends all.
 * A line looks so, with times in milliseconds by the guest's own clock (which stands still with the machine):
 *
 *   beat 17 up 2513 written 1024 checked 4096 gap 101 disk 17
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
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define WORDS (PAGE / 8)
#define TICK_MS 10

static long noise_words;
static atomic_ulong written, checked;

struct part {
    uint64_t *pages;
    uint32_t *versions; /* of each page; page contents follow from number and version */
    uint64_t first, count;
    double write_rate, check_rate; /* pages a tick */
};

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Every word of a page is made from its number and version; the first noise_words of them do not compress. */
static inline uint64_t word_of(uint64_t base, long place)
{
    return place < noise_words ? mix(base + (uint64_t)place) : base + (uint64_t)(place & 7);
}

static uint64_t base_of(uint64_t page, uint32_t version)
{
    return mix(page << 32 | version);
}

static void fail(const char *format, ...)
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

static void fill_page(struct part *part, uint64_t page)
{
    uint64_t *words = part->pages + page * WORDS;
    uint64_t base = base_of(part->first + page, part->versions[page]);
    for (long place = 0; place < WORDS; place++)
        words[place] = word_of(base, place);
}

static void check_page(struct part *part, uint64_t page)
{
    const uint64_t *words = part->pages + page * WORDS;
    uint64_t base = base_of(part->first + page, part->versions[page]);
    for (long place = 0; place < WORDS; place++)
        if (words[place] != word_of(base, place))
            fail("page %lu word %ld version %u: found %016lx, it should be %016lx", part->first + page, place,
                 part->versions[page], words[place], word_of(base, place));
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
    uint64_t random = mix(part->first + 1), next = 0;
    double to_write = 0, to_check = 0;
    struct timespec when;
    clock_gettime(CLOCK_MONOTONIC, &when);
    for (;;) {
        to_write += part->write_rate;
        to_check += part->check_rate;
        while (to_write >= 1) {
            random = mix(random);
            uint64_t page = random % part->count;
            part->versions[page]++;
            fill_page(part, page);
            atomic_fetch_add(&written, 1);
            to_write -= 1;
        }
        while (to_check >= 1) {
            check_page(part, next);
            next = next + 1 == part->count ? 0 : next + 1;
            atomic_fetch_add(&checked, 1);
            to_check -= 1;
        }
        nap(&when, TICK_MS);
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

static int open_disk(void)
{
    for (int tries = 0; tries < 500; tries++) {
        int disk = open("/dev/vda", O_RDWR | O_DIRECT | O_DSYNC | O_CLOEXEC);
        if (disk >= 0)
            return disk;
        usleep(10000);
    }
    fail("there is no disk: %s", strerror(errno));
    return -1;
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

int main(void)
{
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    mount("proc", "/proc", "proc", 0, NULL);
    int console = open("/dev/console", O_RDWR);
    for (int target = 0; console >= 0 && target < 3; target++)
        dup2(console, target);
    setvbuf(stdout, NULL, _IOLBF, 0);
    load_modules();

    uint64_t count = (uint64_t)number("fill", 64 << 20) / PAGE;
    double ticks = 1000.0 / TICK_MS;
    double write_rate = number("rate", 0) / PAGE / ticks, check_rate = number("check", 16 << 20) / PAGE / ticks;
    long beat_ms = (long)number("beat", 100), threads = sysconf(_SC_NPROCESSORS_ONLN);
    noise_words = (long)(number("noise", 40) * WORDS / 100);
    uint64_t *pages = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint32_t *versions = calloc(count, sizeof *versions);
    if (pages == MAP_FAILED || !versions)
        fail("no memory for %lu pages", count);
    int disk = number("disk", 0) ? open_disk() : -1;
    uint64_t *buffer = aligned_alloc(PAGE, PAGE);

    printf("filling %lu pages\n", count);
    struct part *parts = calloc((size_t)threads, sizeof *parts);
    for (long i = 0; i < threads; i++) {
        uint64_t first = count * (uint64_t)i / (uint64_t)threads;
        uint64_t stop = count * (uint64_t)(i + 1) / (uint64_t)threads;
        parts[i] = (struct part){pages + first * WORDS, versions + first, first, stop - first,
                                 write_rate / (double)threads, check_rate / (double)threads};
        for (uint64_t page = 0; page < parts[i].count; page++)
            fill_page(&parts[i], page);
    }
    printf("running on %ld processors\n", threads);
    for (long i = 0; i < threads; i++) {
        pthread_t thread;
        if (parts[i].count && pthread_create(&thread, NULL, work, &parts[i]))
            fail("no thread: %s", strerror(errno));
    }

    struct timespec when;
    clock_gettime(CLOCK_MONOTONIC, &when);
    long last = now_ms();
    for (uint64_t beat = 1;; beat++) {
        nap(&when, beat_ms);
        long now = now_ms();
        if (disk >= 0)
            use_disk(disk, buffer, beat);
        printf("beat %lu up %ld written %lu checked %lu gap %ld", beat, now, atomic_load(&written),
               atomic_load(&checked), now - last);
        if (disk >= 0)
            printf(" disk %lu", beat);
        printf("\n");
        last = now;
    }
}
