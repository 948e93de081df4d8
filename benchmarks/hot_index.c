/* The C of hot_c.py: the trigger index, the same algorithm as engine/core/kernels/{follow,triggers,shares,segments}.py.
 *
 * It works on arrays laid out as the engine's, whose columns it is told by name (columns.h, which hot_c.py writes). Only
 * what the market holds is here: linear contracts of multiplier 1 settled in one asset whose price is fixed at 1. Sums
 * of floating point are made in the same order, without contraction, so that keys come out the same to the last bit.
 * Why it misses nobody is told in triggers.py.
 */
#include <math.h>
#include <stdint.h>

/* Last: a system header has its own SIZE_MAX. */
#include "columns.h"

#define PPM 1000000
#define UNIT 100000000
#define ALWAYS INFINITY
#define NEVER (-INFINITY)
#define FALLING 0
#define RISING 1
#define SHIFT 4
#define SAFETY 1e-12
#define INWARD 1.3e-7
#define PRICE_MAX 4000000000000000000
#define WORTH_MAX 8.9e18

struct position {
    int64_t size, cost;
    int32_t slot;
    int16_t symbol;
    int8_t leg, is_last;
};
_Static_assert(sizeof(struct position) == POSITION_BYTES, "a position is laid out as the engine's");

/* The engine's Tables, in their order, without what needs no looking at here. */
struct tables {
    struct position *positions;
    int32_t *rows;    /* [row][ROW_COLUMNS] */
    int64_t *balances; /* [row]: of the only asset */
    int32_t *holders;
    float *keys; /* [slot][side] */
    int64_t *symbols; /* [symbol][SYMBOL_COLUMNS] */
    int64_t *assets;
    int64_t *tiers; /* [tier][TIER_COLUMNS] */
    int64_t *settings;
    int32_t *stale;
    int64_t symbols_count;
};

struct values {
    int64_t pnl, margin, notional;
};

/* What a row shares out for each unit of a position's claim, and what a unit of margin takes. */
struct shares {
    double slack_per_claim, excess_per_claim, per_margin, per_rearm;
};

static inline int64_t min(int64_t left, int64_t right) { return left < right ? left : right; }
static inline int64_t max(int64_t left, int64_t right) { return left > right ? left : right; }
static inline double larger(double left, double right) { return left > right ? left : right; }
static inline double smaller(double left, double right) { return left < right ? left : right; }

/* Segments: a 16-ary tree of maxima over keys. */

static inline float *key_of(const struct tables *t, int side, int64_t index) { return &t->keys[2 * index + side]; }

static inline int64_t width_above(int64_t width) { return (width + FAN - 1) >> SHIFT; }

static inline double price_key(int side, int64_t price) { return side == FALLING ? (double)price : -(double)price; }

static inline float key_at(int side, double price)
{
    double is_signed = side == FALLING ? price : -price;
    return (float)(is_signed + fabs(is_signed) * INWARD);
}

static inline float top_key(const struct tables *t, int side, int64_t base, int64_t capacity)
{
    int64_t size = capacity, width = capacity;
    while (width > 1) {
        width = width_above(width);
        size += width;
    }
    return *key_of(t, side, base + size - 1);
}

static void put_key(const struct tables *t, int side, int64_t base, int64_t capacity, int64_t slot, float key)
{
    float before = *key_of(t, side, base + slot);
    if (before == key)
        return;
    *key_of(t, side, base + slot) = key;
    for (int64_t index = slot, width = capacity; width > 1; index >>= SHIFT, width = width_above(width)) {
        int64_t group = index & ~(int64_t)(FAN - 1), below = base;
        base += width;
        float *above = key_of(t, side, base + (index >> SHIFT));
        float top = key;
        if (key >= before) {
            if (*above >= key)
                return;
        } else {
            if (*above > before)
                return;
            top = *key_of(t, side, below + group);
            for (int64_t other = group + 1; other < min(group + FAN, width); other++)
                if (*key_of(t, side, below + other) > top)
                    top = *key_of(t, side, below + other);
        }
        before = *above;
        if (before == top)
            return;
        *above = key = top;
    }
}

static int64_t next_crossed(const struct tables *t, int side, int64_t base, int64_t capacity, int64_t slot,
                            double price)
{
    int64_t level = 0, index = slot, width = capacity, begin = base;
    for (;;) {
        if (index >= width)
            return -1;
        int64_t stop = min((index | (FAN - 1)) + 1, width);
        while (index < stop && *key_of(t, side, begin + index) < price)
            index++;
        if (index < stop)
            break;
        if (width == 1)
            return -1;
        index = width_above(index);
        begin += width;
        width = width_above(width);
        level++;
    }
    while (level > 0) {
        level--;
        begin = base;
        width = capacity;
        for (int64_t done = 0; done < level; done++) {
            begin += width;
            width = width_above(width);
        }
        index <<= SHIFT;
        while (*key_of(t, side, begin + index) < price)
            index++;
    }
    return index;
}

/* Rows: what they are worth, exactly. */

static inline int64_t next_position(const struct tables *t, int64_t id) { return t->positions[id].is_last ? NONE : id + 1; }

static inline int64_t *symbol_of(const struct tables *t, int64_t symbol) { return &t->symbols[symbol * SYMBOL_COLUMNS]; }

static inline int64_t *tier_at(const struct tables *t, int64_t tier) { return &t->tiers[tier * TIER_COLUMNS]; }

static inline int64_t div_ppm_up(int64_t amount)
{
    int64_t whole = amount / PPM;
    return whole + (amount % PPM > 0);
}

static inline struct values values_of(const struct tables *t, const struct position *position)
{
    const int64_t *symbol = symbol_of(t, position->symbol);
    int64_t size = position->size, notional = (size < 0 ? -size : size) * symbol[PRICE], tier = symbol[TIERS_FIRST];
    while (tier + 1 < symbol[TIERS_END] && notional >= tier_at(t, tier + 1)[FLOOR])
        tier++;
    const int64_t *line = tier_at(t, tier);
    int64_t millions = notional / PPM;
    int64_t rest = (notional - millions * PPM) * line[RATE] - line[DEDUCTION_PPM];
    int64_t margin = millions * line[RATE] - line[DEDUCTION] + div_ppm_up(rest);
    return (struct values){position->cost + (size < 0 ? -notional : notional), margin, notional};
}

static inline int is_at_ratio(int64_t equity, int64_t maintenance, int64_t ratio_ppm)
{
    if (maintenance <= 0)
        return 0;
    if (equity <= 0)
        return 1;
    int64_t millions = equity / PPM;
    return maintenance >= millions * ratio_ppm + div_ppm_up((equity - millions * PPM) * ratio_ppm);
}

static inline int is_call_for_a_look(const struct tables *t, int32_t flags, int64_t equity, int64_t maintenance)
{
    if (maintenance > 0 && (t->settings[BELOW] ? equity < maintenance : equity <= maintenance))
        return 1;
    if (maintenance == 0 && equity <= 0)
        return 1;
    if (flags & CALLED)
        return !is_at_ratio(equity, maintenance, t->settings[REARM_PPM]);
    return is_at_ratio(equity, maintenance, t->settings[CALL_PPM]);
}

static inline int needs_look(const struct tables *t, int64_t row)
{
    const int32_t *entry = &t->rows[row * ROW_COLUMNS];
    if (entry[UNPRICED] != 0 || entry[FLAGS] & SYSTEM)
        return 0;
    if (entry[FLAGS] & WATCHED)
        return 1;
    int64_t equity = t->balances[row], maintenance = 0;
    for (int64_t id = entry[HEAD]; id != NONE; id = next_position(t, id)) {
        struct values values = values_of(t, &t->positions[id]);
        equity += values.pnl;
        maintenance += min(values.margin, INT64_MAX - maintenance);
    }
    return is_call_for_a_look(t, entry[FLAGS], equity, maintenance);
}

static inline void mark_stale(const struct tables *t, int64_t row)
{
    int32_t *flags = &t->rows[row * ROW_COLUMNS + FLAGS];
    if (!(*flags & STALE)) {
        *flags |= STALE;
        t->stale[t->settings[STALE_COUNT]++] = (int32_t)row;
    }
}

/* Shares: the prices at which a row's slack is used up. */

static inline double share_weight(double swing, double value) { return sqrt(swing * value + 1.0); }

static inline double swing_of(const int64_t *symbol) { return (double)symbol[SWING_PPM] / 1e6; }

static inline double margin_step(const struct tables *t, int64_t tier)
{
    const int64_t *below = tier_at(t, tier), *above = tier_at(t, tier + 1);
    double floor = (double)above[FLOOR], rate = (double)(above[RATE] - below[RATE]) / 1e6;
    double deduction = (double)(above[DEDUCTION] - below[DEDUCTION]);
    deduction += (double)(above[DEDUCTION_PPM] - below[DEDUCTION_PPM]) / 1e6;
    double step = floor * rate - deduction;
    return step > (floor * rate + deduction) * 1e-9 ? step : 0.0;
}

static inline int64_t tier_of(const struct tables *t, const int64_t *symbol, int64_t notional)
{
    int64_t tier = symbol[TIERS_FIRST];
    for (int64_t candidate = tier + 1; candidate < symbol[TIERS_END]; candidate++) {
        if (notional < tier_at(t, candidate)[FLOOR])
            break;
        tier = candidate;
    }
    return tier;
}

static inline double slope_of(const struct tables *t, int64_t tier, double per_margin, double cost)
{
    return larger(cost + (double)tier_at(t, tier)[RATE] / 1e6 * per_margin, 0.0);
}

static double risen_notional(const struct tables *t, const int64_t *symbol, int64_t tier, double notional,
                             double budget, double per_margin, double cost)
{
    for (;;) {
        double slope = slope_of(t, tier, per_margin, cost);
        if (tier + 1 == symbol[TIERS_END])
            return slope > 0.0 ? notional + budget / slope : INFINITY;
        double floor = (double)tier_at(t, tier + 1)[FLOOR], distance = larger(floor - notional, 0.0);
        if (slope > 0.0 && distance * slope >= budget)
            return notional + budget / slope;
        budget -= distance * slope;
        double step = margin_step(t, tier) * per_margin;
        if (step > budget)
            return floor;
        budget -= step;
        notional = floor;
        tier++;
    }
}

static inline double fallen_notional(const struct tables *t, const int64_t *symbol, int64_t tier, double notional,
                                     double budget, double per_margin, double cost)
{
    double slope = slope_of(t, tier, per_margin, cost);
    double fallen = slope > 0.0 ? notional - budget / slope : 0.0;
    for (; tier > symbol[TIERS_FIRST]; tier--)
        if (margin_step(t, tier - 1) > 0.0)
            return larger(fallen, (double)tier_at(t, tier)[FLOOR]);
    return fallen;
}

static inline void put_keys(const struct tables *t, const struct position *position, float falling, float rising)
{
    const int64_t *symbol = symbol_of(t, position->symbol);
    put_key(t, FALLING, symbol[BASE], symbol[CAPACITY], position->slot, falling);
    put_key(t, RISING, symbol[BASE], symbol[CAPACITY], position->slot, rising);
}

static void put_all_keys(const struct tables *t, int64_t row, float falling)
{
    for (int64_t id = t->rows[row * ROW_COLUMNS + HEAD]; id != NONE; id = next_position(t, id))
        put_keys(t, &t->positions[id], falling, NEVER);
}

static inline void share_position(const struct tables *t, const struct position *position, struct shares shares)
{
    const int64_t *symbol = symbol_of(t, position->symbol);
    int64_t size = position->size, worth = (size < 0 ? -size : size) * symbol[PRICE];
    double scale = fabs((double)size), notional = (double)worth;
    double claim = share_weight(swing_of(symbol), notional), kept = notional * SAFETY + 2.0;
    double budget = larger(shares.slack_per_claim * claim - kept, 0.0), rise = -1.0, low, high;
    int64_t tier = tier_of(t, symbol, worth);
    if (shares.excess_per_claim >= 0.0)
        rise = larger(shares.excess_per_claim * claim - kept, 0.0);
    if (size > 0) {
        low = notional - budget;
        high = INFINITY;
        if ((double)symbol[RATE_TOP] * shares.per_margin > PPM)
            high = risen_notional(t, symbol, tier, notional, budget, shares.per_margin, -1.0);
        if (rise >= 0.0) {
            low = larger(low, fallen_notional(t, symbol, tier, notional, rise, shares.per_rearm, -1.0));
            high = smaller(high, notional + rise);
        }
    } else {
        low = 0.0;
        high = risen_notional(t, symbol, tier, notional, budget, shares.per_margin, 1.0);
        if (rise >= 0.0)
            low = fallen_notional(t, symbol, tier, notional, rise, shares.per_rearm, 1.0);
    }
    double low_price = low <= 0.0 ? 0.0 : low / scale, high_price = high / scale;
    float falling = low_price <= 0.0 ? NEVER : key_at(FALLING, low_price);
    put_keys(t, position, falling, high_price == INFINITY ? NEVER : key_at(RISING, high_price));
}

static void share_row(const struct tables *t, int64_t row)
{
    const int32_t *entry = &t->rows[row * ROW_COLUMNS];
    int32_t flags = entry[FLAGS];
    if (flags & SYSTEM || entry[UNPRICED] != 0) {
        put_all_keys(t, row, NEVER);
        return;
    }
    if (flags & WATCHED) {
        put_all_keys(t, row, ALWAYS);
        return;
    }
    int is_called = (flags & CALLED) != 0;
    double per_margin = is_called ? 1.0 : 1e6 / (double)t->settings[CALL_PPM];
    double per_rearm = t->settings[REARM_PPM] > 0 ? 1e6 / (double)t->settings[REARM_PPM] : 0.0;
    int64_t equity = t->balances[row], maintenance = 0;
    double claims = 0.0, added_up = fabs((double)equity), roundings = 4.0;
    for (int64_t id = entry[HEAD]; id != NONE; id = next_position(t, id)) {
        const struct position *position = &t->positions[id];
        struct values values = values_of(t, position);
        equity += values.pnl;
        maintenance += min(values.margin, INT64_MAX - maintenance);
        claims += share_weight(swing_of(symbol_of(t, position->symbol)), (double)values.notional);
        added_up += fabs((double)values.pnl) + (double)values.notional;
        roundings += 8.0 * (1.0 + per_margin + per_rearm);
    }
    if (is_call_for_a_look(t, flags, equity, maintenance)) {
        put_all_keys(t, row, ALWAYS);
        return;
    }
    double margin = (double)maintenance;
    double kept = (added_up + margin * (per_margin + per_rearm)) * SAFETY + roundings;
    double slack = (double)equity - margin * per_margin - kept;
    double excess = margin * per_rearm - (double)equity - kept;
    if (slack <= 0.0 || (is_called && (per_rearm == 0.0 || excess <= 0.0))) {
        put_all_keys(t, row, ALWAYS);
        return;
    }
    struct shares shares = {slack / claims, is_called ? excess / claims : -1.0, per_margin, per_rearm};
    for (int64_t id = entry[HEAD]; id != NONE; id = next_position(t, id))
        share_position(t, &t->positions[id], shares);
}

/* Triggers: whom a price concerns. */

static inline void fetch_row(const struct tables *t, int64_t row)
{
    __builtin_prefetch(&t->rows[row * ROW_COLUMNS], 1);
    __builtin_prefetch(&t->balances[row], 1);
}

static inline void fetch_positions(const struct tables *t, int64_t row)
{
    int64_t head = t->rows[row * ROW_COLUMNS + HEAD];
    if (head != NONE)
        for (int64_t line = 0; line < LINES; line++)
            __builtin_prefetch((const char *)&t->positions[head] + line * LINE_BYTES, 1);
}

static inline void fetch_keys(const struct tables *t, int64_t row)
{
    for (int64_t id = t->rows[row * ROW_COLUMNS + HEAD]; id != NONE; id = next_position(t, id)) {
        const int64_t *symbol = symbol_of(t, t->positions[id].symbol);
        int64_t slot = t->positions[id].slot;
        __builtin_prefetch(key_of(t, FALLING, symbol[BASE] + slot), 1);
        __builtin_prefetch(key_of(t, FALLING, symbol[BASE] + symbol[CAPACITY] + slot / FAN), 1);
    }
}

/* Set the keys of all stale rows; return how many they were. */
int64_t share_stale(const struct tables *t)
{
    int64_t count = t->settings[STALE_COUNT];
    for (int64_t first = 0; first < count; first += TOGETHER) {
        int64_t end = min(first + TOGETHER, count);
        for (int64_t index = first; index < end; index++)
            fetch_row(t, t->stale[index]);
        for (int64_t index = first; index < end; index++)
            fetch_positions(t, t->stale[index]);
        for (int64_t index = first; index < end; index++)
            fetch_keys(t, t->stale[index]);
        for (int64_t index = first; index < end; index++) {
            int64_t row = t->stale[index];
            t->rows[row * ROW_COLUMNS + FLAGS] &= ~STALE;
            share_row(t, row);
        }
    }
    t->settings[STALE_COUNT] = 0;
    return count;
}

static int64_t crossed_into(const struct tables *t, const int64_t *symbol, int32_t *found_slots)
{
    int64_t base = symbol[BASE], capacity = symbol[CAPACITY], count = 0;
    double falling = price_key(FALLING, symbol[PRICE]);
    for (int side = FALLING; side <= RISING; side++) {
        double price = price_key(side, symbol[PRICE]);
        for (int64_t slot = next_crossed(t, side, base, capacity, 0, price); slot >= 0;
             slot = next_crossed(t, side, base, capacity, slot + 1, price))
            if (side == FALLING || *key_of(t, FALLING, base + slot) < falling)
                found_slots[count++] = (int32_t)slot;
    }
    return count;
}

static int64_t look_at(const struct tables *t, int32_t *rows, int64_t count)
{
    int64_t found = 0;
    for (int64_t first = 0; first < count; first += TOGETHER) {
        int64_t end = min(first + TOGETHER, count);
        for (int64_t index = first; index < end; index++)
            fetch_row(t, rows[index]);
        for (int64_t index = first; index < end; index++)
            fetch_positions(t, rows[index]);
        for (int64_t index = first; index < end; index++) {
            int64_t row = rows[index];
            mark_stale(t, row);
            if (needs_look(t, row))
                rows[found++] = (int32_t)row;
        }
    }
    return found;
}

/* Write the holders of a symbol that need a look at its mark; return how many. */
int64_t concerned_rows(const struct tables *t, int64_t symbol_index, int32_t *found_rows)
{
    const int64_t *symbol = symbol_of(t, symbol_index);
    if (symbol[COUNT] == 0)
        return 0;
    int64_t count = crossed_into(t, symbol, found_rows);
    for (int64_t index = 0; index < count; index++)
        found_rows[index] = t->holders[symbol[BASE] + found_rows[index]];
    return look_at(t, found_rows, count);
}

/* Following marks: what is checked of each before it is put in force. */

static const int64_t POWERS[19] = {
    1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000, 1000000000, 10000000000, 100000000000,
    1000000000000, 10000000000000, 100000000000000, 1000000000000000, 10000000000000000, 100000000000000000,
    1000000000000000000};

static inline int64_t scaled_price(int64_t mantissa, int64_t places, int64_t decimals, int64_t steps)
{
    int64_t price;
    if (places <= decimals) {
        int64_t shift = decimals - places;
        if (shift > 18 || mantissa > PRICE_MAX / POWERS[shift])
            return 0;
        price = mantissa * POWERS[shift];
    } else {
        if (places - decimals > 18)
            return 0;
        int64_t divisor = POWERS[places - decimals], rest = mantissa % divisor;
        price = mantissa / divisor;
        if (rest > divisor - rest || (rest == divisor - rest && price & 1))
            price++;
    }
    return price <= PRICE_MAX / steps ? price * steps : 0;
}

static inline double worth_of_symbol(const int64_t *symbol)
{
    if (symbol[PRICE] == 0)
        return 0.0;
    return 2.0 * ((double)symbol[SIZE_MAX] * (double)symbol[PRICE] + (double)symbol[COST_MAX]);
}

static double worth_bound(const struct tables *t)
{
    double bound = 0.0;
    for (int64_t symbol = 0; symbol < t->symbols_count; symbol++)
        bound += worth_of_symbol(symbol_of(t, symbol));
    return bound + (double)t->assets[BALANCE_MAX];
}

/* Put marks in force from begin on, to before end; return the index of the first that is not, and write how many rows
 * the last one found.
 */
int64_t follow_marks(const struct tables *t, const int64_t *marks, int64_t begin, int64_t end, int64_t *stream,
                     int32_t *found_rows, int64_t *found)
{
    *found = 0;
    share_stale(t);
    double worth = worth_bound(t);
    for (int64_t index = begin; index < end; index++) {
        const int64_t *mark = &marks[index * MARK_COLUMNS];
        if (mark[SYMBOL] < 0)
            return index;
        int64_t *symbol = symbol_of(t, mark[SYMBOL]), ts = mark[TS], clock = max(stream[CLOCK], ts);
        if (symbol[IS_OPEN] == 0 || ts < symbol[MARK_TS] || clock >= stream[DUE])
            return index;
        if (stream[FUTURE_NS] != 0 && ts - stream[CLOCK] > stream[FUTURE_NS])
            return index;
        int64_t before = symbol[PRICE];
        int64_t price = scaled_price(mark[MANTISSA], mark[PLACES], symbol[MARK_DECIMALS], symbol[MARK_STEPS]);
        double room = (double)stream[BAND_PPM] * (double)before * (1.0 - 1e-9);
        if (price == 0 || (stream[BAND_PPM] != 0 && fabs((double)price - (double)before) * 1e6 > room))
            return index;
        double change = -worth_of_symbol(symbol);
        symbol[PRICE] = price;
        change += worth_of_symbol(symbol);
        if (worth + change > WORTH_MAX) {
            symbol[PRICE] = before;
            return index;
        }
        worth += change;
        symbol[MARK_TS] = ts;
        symbol[IS_BEHIND] = 1;
        stream[CLOCK] = clock;
        int64_t base = symbol[BASE], capacity = symbol[CAPACITY];
        if (capacity != 0 && (top_key(t, FALLING, base, capacity) >= price_key(FALLING, price) ||
                              top_key(t, RISING, base, capacity) >= price_key(RISING, price))) {
            *found = concerned_rows(t, mark[SYMBOL], found_rows);
            if (*found > 0)
                return index + 1;
            share_stale(t);
        }
    }
    return end;
}
