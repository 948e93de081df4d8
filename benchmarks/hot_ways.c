/* Two of the ways of hot_c.py: full recompute and one pass over a symbol's holders.
 *
 * Both look a position's margin up in a band: a stretch of notionals of one symbol over which the margin is one line,
 * tiers cut where 64 bits end. Each position remembers its band, so that the look-up is two comparisons that mostly
 * hold. Sums are exact; unsigned ones may wrap around where only their differences are used.
 */
#include <stdint.h>

#define PPM 1000000
/* How far ahead a row's standing is fetched: the rows of a rarely held symbol lie a page apart. */
#define AHEAD 32
#define BLOCK_ROWS 256

typedef __int128 int128;

struct band {
    int64_t price;          /* the symbol's mark */
    int64_t floor, ceiling; /* the notionals it is for: floor <= n < ceiling */
    int64_t rate;
    int64_t offset; /* where it is not wide: margin = floor((n x rate + offset) / PPM) */
    int64_t wide;   /* n x rate leaves 64 bits */
    int64_t deduction, deduction_ppm;
};

struct standing {
    int64_t equity, maintenance;
};

struct full {
    const int32_t *row_base; /* where a row's positions begin, and where the last ones end */
    const int64_t *cash;     /* wallet and the cost of all positions, a row */
    uint16_t *band;          /* a position */
    const int64_t *size;
    struct band *bands;
    uint64_t *value_sums, *margin_sums; /* as long as the positions of BLOCK_ROWS rows and one */
    int32_t *touched;
    int64_t rows;
};

struct holders {
    const int32_t *row; /* a position, symbol by symbol, rows rising; AHEAD more at the end */
    const int64_t *size;
    int64_t *margin;
    uint16_t *band;
    struct band *bands;
    struct standing *standing; /* a row */
    int32_t *touched;
};

static inline int64_t margin_of(int64_t notional, const struct band *band)
{
    if (__builtin_expect(band->wide, 0)) {
        int64_t millions = notional / PPM;
        int64_t rest = (notional - millions * PPM) * band->rate - band->deduction_ppm;
        /* Rest is above -PPM, so this rounds up. */
        return millions * band->rate - band->deduction + (rest + 2 * PPM - 1) / PPM - 1;
    }
    return (int64_t)(((uint64_t)notional * (uint64_t)band->rate + (uint64_t)band->offset) / PPM);
}

static inline const struct band *band_of(const struct band *bands, uint16_t *place, int64_t notional)
{
    const struct band *band = &bands[*place];
    if (__builtin_expect((notional < band->floor) | (notional >= band->ceiling), 0)) {
        while (notional < band->floor)
            band--;
        while (notional >= band->ceiling)
            band++;
        *place = (uint16_t)(band - bands);
    }
    return band;
}

/* MM >= E x ratio covers MM >= E and E <= 0; without margin only a debt matters. */
static inline int64_t needs_a_look(int64_t equity, int64_t maintenance, int64_t call_ppm)
{
    int is_at_ratio = (int128)maintenance * PPM >= (int128)equity * call_ppm;
    return is_at_ratio & ((maintenance > 0) | (equity <= 0));
}

static void set_price(struct band *bands, int64_t begin, int64_t end, int64_t price)
{
    for (int64_t index = begin; index < end; index++)
        bands[index].price = price;
}

/* Value every position of every row at the new mark of the symbol whose bands lie from begin to end; write the rows
 * that hold it and need a look to touched, and return how many they are.
 *
 * A row's sums are differences of running sums over a block of rows: a loop over two to five positions would end by
 * surprise once a row.
 */
int64_t mark_all(const struct full *all, int64_t begin, int64_t end, int64_t price, int64_t call_ppm)
{
    const struct band *bands = all->bands;
    uint64_t *value_sums = all->value_sums, *margin_sums = all->margin_sums;
    int64_t found = 0;
    set_price(all->bands, begin, end, price);
    for (int64_t first = 0; first < all->rows; first += BLOCK_ROWS) {
        int64_t last = first + BLOCK_ROWS < all->rows ? first + BLOCK_ROWS : all->rows;
        const int32_t *base = all->row_base;
        const int64_t *size = all->size + base[first];
        uint16_t *place = all->band + base[first];
        int64_t count = base[last] - base[first];
        uint64_t values = 0, margins = 0;
        value_sums[0] = margin_sums[0] = 0;
        for (int64_t index = 0; index < count; index++) {
            int64_t value = size[index] * bands[place[index]].price;
            int64_t notional = value < 0 ? -value : value;
            margins += (uint64_t)margin_of(notional, band_of(bands, &place[index], notional));
            values += (uint64_t)value;
            value_sums[index + 1] = values;
            margin_sums[index + 1] = margins;
        }
        for (int64_t row = first; row < last; row++) {
            int64_t from = base[row] - base[first], to = base[row + 1] - base[first];
            int64_t equity = all->cash[row] + (int64_t)(value_sums[to] - value_sums[from]);
            int64_t maintenance = (int64_t)(margin_sums[to] - margin_sums[from]);
            if (needs_a_look(equity, maintenance, call_ppm)) {
                int64_t is_holder = 0;
                for (int64_t index = from; index < to; index++)
                    is_holder |= (place[index] >= begin) & (place[index] < end);
                all->touched[found] = (int32_t)row;
                found += is_holder;
            }
        }
    }
    return found;
}

/* Move the sums of the rows that hold a symbol, whose positions lie from first to last, by what its mark has changed;
 * write those that need a look to touched, and return how many they are.
 */
int64_t mark_holders(const struct holders *all, int64_t first, int64_t last, int64_t before, int64_t price,
                     int64_t call_ppm)
{
    const int32_t *restrict rows = all->row;
    const int64_t *restrict sizes = all->size;
    int64_t *restrict margins = all->margin;
    uint16_t *restrict places = all->band;
    int32_t *restrict touched = all->touched;
    struct standing *restrict standings = all->standing;
    int64_t change = price - before, found = 0;
    for (int64_t index = first; index < last; index++) {
        __builtin_prefetch(&standings[rows[index + AHEAD]], 1);
        int64_t size = sizes[index], notional = (size < 0 ? -size : size) * price;
        int64_t margin = margin_of(notional, band_of(all->bands, &places[index], notional));
        struct standing *standing = &standings[rows[index]];
        int64_t equity = standing->equity + size * change;
        int64_t maintenance = standing->maintenance + margin - margins[index];
        standing->equity = equity;
        standing->maintenance = maintenance;
        margins[index] = margin;
        touched[found] = rows[index];
        found += needs_a_look(equity, maintenance, call_ppm);
    }
    return found;
}
