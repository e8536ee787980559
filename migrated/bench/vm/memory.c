#include "memory.h"

#include <string.h>

/* The table is of values as a store of keys keeps them: slots of one size class, each with a header and a value
 * that leaves some of its slot empty. */
#define SLOT 512
#define SLOTS (PAGE / SLOT)
#define HEADER 16
#define SHORTEST 64
#define HOT_SHARE 5  /* one page in five gets */
#define HOT_OF_TEN 8 /* eight of ten new values */

long noise_words;
atomic_ulong written, checked, set;

uint64_t mix(uint64_t x)
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

static uint64_t sum_of(const uint64_t *words)
{
    uint64_t sum = 1;
    for (long place = 0; place < WORDS; place++) {
        sum = (sum ^ words[place]) * 0xbf58476d1ce4e5b9u;
        sum ^= sum >> 32;
    }
    return sum;
}

static uint64_t *words_of(const struct part *part, uint64_t page)
{
    return part->pages + page * WORDS;
}

static void fill_pattern(struct part *part, uint64_t page)
{
    uint64_t *words = words_of(part, page);
    uint64_t base = base_of(part->first + page, part->versions[page]);
    for (long place = 0; place < WORDS; place++)
        words[place] = word_of(base, place);
}

static void check_page(const struct part *part, uint64_t page)
{
    const uint64_t *words = words_of(part, page);
    if (part->sums) {
        uint64_t sum = sum_of(words);
        if (sum != part->sums[page])
            fail("page %lu: its sum is %016lx, it should be %016lx", part->first + page, sum, part->sums[page]);
        return;
    }
    uint64_t base = base_of(part->first + page, part->versions[page]);
    for (long place = 0; place < WORDS; place++)
        if (words[place] != word_of(base, place))
            fail("page %lu word %ld version %u: found %016lx, it should be %016lx", part->first + page, place,
                 part->versions[page], words[place], word_of(base, place));
}

/* A page like those of the content, but equal to none: another one, each byte changed by the same bits. Whatever
 * repeats in it still does, so that it compresses as the other does. */
static void write_like(uint64_t *words, const uint64_t *other, uint64_t byte)
{
    uint64_t bits = (byte & 0xff) * 0x0101010101010101u;
    for (long place = 0; place < WORDS; place++)
        words[place] = other[place] ^ bits;
}

/* Put a new value in a slot: its length, and bytes from somewhere in the content. */
static void set_value(struct part *part, uint64_t page, uint64_t slot, uint64_t random)
{
    unsigned char *to = (unsigned char *)words_of(part, page) + slot * SLOT;
    uint32_t header[] = {(uint32_t)(part->first + page) * SLOTS + (uint32_t)slot, 0, ++part->versions[page], 0};
    uint64_t length = SHORTEST + random % (SLOT - HEADER - SHORTEST);
    uint64_t from = (random >> 20) % (part->table * PAGE - SLOT);
    header[1] = (uint32_t)length;
    memcpy(to, header, HEADER);
    memcpy(to + HEADER, (const unsigned char *)part->pages + from, length);
    memset(to + HEADER + length, 0, SLOT - HEADER - length);
}

void begin_page(struct part *part, uint64_t page, uint64_t turn)
{
    if (!part->sums) {
        fill_pattern(part, page);
        return;
    }
    if (page >= part->table)
        for (uint64_t slot = 0; slot < SLOTS; slot++)
            set_value(part, page, slot, mix((part->first + page) * SLOTS + slot));
    else if (turn)
        write_like(words_of(part, page), words_of(part, page), turn);
    part->sums[page] = sum_of(words_of(part, page));
}

static void write_page(struct part *part, uint64_t page, uint64_t random)
{
    if (part->sums) {
        write_like(words_of(part, page), words_of(part, (random >> 8) % part->table), random);
        part->sums[page] = sum_of(words_of(part, page));
    } else {
        part->versions[page]++;
        fill_pattern(part, page);
    }
    atomic_fetch_add(&written, 1);
}

static void set_some_value(struct part *part, uint64_t random)
{
    uint64_t pages = part->count - part->table;
    if (random % 10 < HOT_OF_TEN && pages >= HOT_SHARE)
        pages /= HOT_SHARE;
    uint64_t page = part->table + (random >> 8) % pages;
    set_value(part, page, (random >> 4) % SLOTS, mix(random));
    part->sums[page] = sum_of(words_of(part, page));
    atomic_fetch_add(&set, 1);
}

void do_tick(struct part *part, struct work *work)
{
    for (work->to_write += part->write_rate; work->to_write >= 1; work->to_write--) {
        work->random = mix(work->random);
        write_page(part, work->random % part->table, mix(work->random));
    }
    for (work->to_set += part->set_rate; work->to_set >= 1; work->to_set--)
        set_some_value(part, work->random = mix(work->random));
    for (work->to_check += part->check_rate; work->to_check >= 1; work->to_check--) {
        check_page(part, work->next);
        work->next = work->next + 1 == part->count ? 0 : work->next + 1;
        atomic_fetch_add(&checked, 1);
    }
}

void check_all(struct part *part)
{
    for (uint64_t page = 0; page < part->count; page++)
        check_page(part, page);
}
