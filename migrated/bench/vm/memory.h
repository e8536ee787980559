/* The memory that a guest fills, rewrites and proves. Every page follows from something that is kept beside it: a
 * page of the pattern from its number and version, any other page is what its sum says. */
#ifndef MEMORY_H
#define MEMORY_H

#include <stdatomic.h>
#include <stdint.h>

#define PAGE 4096
#define WORDS (PAGE / 8)
#define TICK_MS 10

/* What a thread looks after: pages first to first + count - 1 of the guest's memory. */
struct part {
    uint64_t *pages;
    uint32_t *versions; /* of each page of the pattern, and of each page of the table */
    uint64_t *sums;     /* of each page that is none of the pattern; NULL: all are */
    uint64_t first, count;
    uint64_t table;                         /* pages before it hold content, those from it on the table */
    double write_rate, check_rate, set_rate; /* pages, pages and values a tick */
};

extern long noise_words; /* of each page of the pattern: those that do not compress */
extern atomic_ulong written, checked, set;

uint64_t mix(uint64_t x);

/* Give a page its first content: of the pattern, the table, or what was read into it, altered by turn (from 0). */
void begin_page(struct part *part, uint64_t page, uint64_t turn);

/* A tick's work: pages written, values set, pages checked. The state is random's and what is left of earlier ticks. */
struct work {
    uint64_t random, next;
    double to_write, to_set, to_check;
};
void do_tick(struct part *part, struct work *work);

/* Every page; does not return if one is wrong. */
void check_all(struct part *part);

/* Says what is wrong, loudly, and does nothing any more. */
void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
