"""How the usual marks and fills of a whole batch are read from their JSON in one pass over the bytes.

``read_lines_into`` only accepts: a row either says exactly the event that ``decode`` (``engine/edges/codec.py``) finds
in the line, or hands the line over to it. Handed over are refusals, all other messages and everything unusual: an
unknown or repeated key, escapes, bytes beyond ASCII, nested values, numbers of more than 18 digits.

A line is taken up only if its last byte is a closing brace. No space, digit or word goes past one, and no other byte
that was recognised can be the last, so that reading on needs no look at where the line ends; only names may hold a
brace. Eight bytes at a time are read as one integer and compared, searched or added up together.

Positions are uint64, since numba tests each signed index for being negative, which costs half as much again.
"""

from __future__ import annotations

import numpy as np

from engine.core.kernels.compile import inlined, kernel, subkernel

# What a line is: left to the strict path, or one of the two that come by the million.
HANDED_OVER, MARK, FILL = 0, 1, 2

# Columns of a row. A name is where its first byte stands and how many there are, 0 if it is absent; a number its
# mantissa and its decimal places, -1 if it is absent. What a mark has stands together, so that marks are quick to walk.
KIND, TS = 0, 1
SYMBOL_START, SYMBOL_LENGTH = 2, 3
PRICE, PRICE_PLACES = 4, 5
INDEX_PRICE, INDEX_PRICE_PLACES = 6, 7
QTY, QTY_PLACES = 8, 9
FEE, FEE_PLACES = 10, 11
FILL_ID_START, FILL_ID_LENGTH = 12, 13
ACCOUNT_START, ACCOUNT_LENGTH = 14, 15
ORDER_ID_START, ORDER_ID_LENGTH = 16, 17
SIDE, LEG, ISOLATED = 18, 19, 20
LINE_COLUMNS = 21

BUY, SELL = 0, 1
NET, LONG, SHORT = 0, 1, 2

# Far more than the longest line of plain fields, far less than what decoding refuses as too long.
LINE_BYTES_MAX = 4096
NAME_BYTES_MAX = 64
ORDER_ID_BYTES_MAX = 256
# Any mantissa of so many digits fits in int64.
DIGITS_MAX = 18


def _word(text: bytes) -> np.uint64:
    """Return up to eight bytes as ``word_at`` reads them: the first one lowest, zeros behind the last."""
    return np.uint64(int.from_bytes(text, "little"))


def _bits(*columns: int) -> np.uint64:
    return np.uint64(sum(1 << column for column in columns))


_U0, _U1, _U2, _U3, _U4, _U5, _U6, _U7, _U8, _U9, _U10 = (np.uint64(number) for number in range(11))
_U12, _U16, _U24, _U32, _U40, _U48, _U56 = (np.uint64(number) for number in (12, 16, 24, 32, 40, 48, 56))
_LINE_BYTES_MAX, _NAME_BYTES_MAX = np.uint64(LINE_BYTES_MAX), np.uint64(NAME_BYTES_MAX)
_ORDER_ID_BYTES_MAX, _DIGITS_MAX = np.uint64(ORDER_ID_BYTES_MAX), np.uint64(DIGITS_MAX)
# Nineteen nines are still a uint64.
_TS_DIGITS_MAX, _TS_MAX = np.uint64(19), np.uint64(2**63 - 1)
_POWERS = np.array([10**n for n in range(DIGITS_MAX)], dtype=np.uint64)
_POWER8 = np.uint64(10**8)

_TAB, _LINE_FEED, _RETURN, _SPACE = (np.uint8(byte) for byte in b"\t\n\r ")
_QUOTE, _COLON, _COMMA, _MINUS, _POINT, _ZERO, _N, _OPEN, _CLOSE = (np.uint8(byte) for byte in b'":,-.0n{}')

_ONES, _LOW_BITS, _TOP_BITS = _word(b"\x01" * 8), _word(b"\x7f" * 8), _word(b"\x80" * 8)
_SPACES, _QUOTES, _BACKSLASHES = _word(b" " * 8), _word(b'"' * 8), _word(b"\\" * 8)
_ZEROS, _LINE_FEEDS = _word(b"0" * 8), _word(b"\n" * 8)
# Added to a byte of 0 to 9 it leaves the top bit clear, to any up to 127 it sets it.
_BEYOND_NINE = _word(bytes([0x80 - 10]) * 8)
_PAIRS = np.uint64(0x000000FF000000FF)
_PAIRS_HIGH, _PAIRS_LOW = np.uint64(100 + (1_000_000 << 32)), np.uint64(1 + (10_000 << 32))

_M3, _M4, _M5, _M6, _M7 = (_word(b"\xff" * count) for count in range(3, 8))
_TS, _QTY, _FEE, _LEG = _word(b'ts"'), _word(b'qty"'), _word(b'fee"'), _word(b'leg"')
_TYPE, _SIDE, _PRICE, _SYMBOL = _word(b'type"'), _word(b'side"'), _word(b'price"'), _word(b'symbol"')
_FILL_ID, _ACCOUNT = _word(b'fill_id"'), _word(b'account"')
_ORDER_ID, _ISOLATED, _INDEX_PR, _ICE = _word(b"order_id"), _word(b"isolated"), _word(b"index_pr"), _word(b'ice"')
_NULL, _TRUE, _FALSE = _word(b"null"), _word(b"true"), _word(b"false")
_MARK, _FILL, _BUY, _SELL = _word(b'"mark"'), _word(b'"fill"'), _word(b'"buy"'), _word(b'"sell"')
_NET, _LONG, _SHORT = _word(b'"net"'), _word(b'"long"'), _word(b'"short"')

# Fields as bits, each named by its first column.
_HAS_INDEX_PRICE, _HAS_FEE, _HAS_ORDER_ID = _bits(INDEX_PRICE), _bits(FEE), _bits(ORDER_ID_START)
_HAS_LEG, _HAS_ISOLATED = _bits(LEG), _bits(ISOLATED)
_MARK_NEEDS = _bits(KIND, TS, SYMBOL_START, PRICE)
_MARK_TAKES = _MARK_NEEDS | _HAS_INDEX_PRICE
_FILL_NEEDS = _MARK_NEEDS | _bits(FILL_ID_START, ACCOUNT_START, QTY, SIDE)
_FILL_TAKES = _FILL_NEEDS | _HAS_FEE | _HAS_ORDER_ID | _HAS_LEG | _HAS_ISOLATED


@kernel
def split_lines_into(buffer, begin, begins, ends):
    """Find the lines that end in ``buffer`` from ``begin`` on; return how many.

    buffer        uint8[byte]
    begins, ends  int64[line]  out: the first byte of each line, and that of its line feed

    Stops where the arrays are full. The next call begins behind the last line feed, at ``ends[count - 1] + 1``; what
    stands there without a line feed is the start of a line still to come, or the end of the file. A carriage return
    stays in its line, where it is a space like any other.
    """
    size, at, first = np.uint64(buffer.size), np.uint64(begin), np.uint64(begin)
    count, count_max = 0, min(begins.size, ends.size)
    while at < size and count < count_max:
        found = zero_bytes(word_at(buffer, at, size) ^ _LINE_FEEDS)
        while found != _U0 and count < count_max:
            end = at + bytes_before(found)
            begins[count], ends[count] = first, end
            count += 1
            first = end + _U1
            found &= found - _U1
        at += _U8
    return count


@subkernel
def read_lines_into(buffer, begins, ends, count, fields):
    """Write one row for each of ``count`` lines: what the mark or fill in it says, or that it is handed over.

    buffer        uint8[byte]      lines of a file, or values joined without anything between
    begins, ends  int64[line]      where each line's bytes begin and end, in ``buffer``
    fields        int64[line, 21]  out, columns above; of a mark the first eight, of a line handed over only KIND
                                   mean anything
    """
    for number in range(count):
        line = np.uint64(number)
        begin, end = np.uint64(begins[line]), np.uint64(ends[line])
        fields[line, KIND] = read_line_into(buffer, begin, end, line, fields)


@inlined
def read_line_into(buffer, begin, end, line, fields):
    """Return what the line from ``begin`` to ``end`` is, its fields written to row ``line``."""
    if end > np.uint64(buffer.size) or begin >= end or end - begin > _LINE_BYTES_MAX:
        return HANDED_OVER
    last = end - _U1
    while is_space(buffer[last]) and last > begin:
        last -= _U1
    if buffer[last] != _CLOSE:
        return HANDED_OVER
    end = last + _U1
    at = past_spaces(buffer, begin)
    if buffer[at] != _OPEN:
        return HANDED_OVER

    # ``seen`` are the keys that were there, ``held`` those with a value: null is the same as absent.
    seen, held, kind = _U0, _U0, HANDED_OVER
    while True:
        # The key and its colon.
        at = past_spaces(buffer, at + _U1)
        if buffer[at] != _QUOTE:
            return HANDED_OVER
        column, at = key_at(buffer, at + _U1, end)
        field = _U1 << np.uint64(column)
        if at == _U0 or seen & field != _U0:
            return HANDED_OVER
        seen |= field
        at = past_spaces(buffer, at)
        if buffer[at] != _COLON:
            return HANDED_OVER
        at = past_spaces(buffer, at + _U1)

        # The value.
        if buffer[at] == _N:
            if word_at(buffer, at, end) & _M4 != _NULL:
                return HANDED_OVER
            at += _U4
        else:
            held |= field
            if column == TS:
                at, ts = time_at(buffer, at, end)
                fields[line, TS] = ts
            elif PRICE <= column <= FEE:
                at, mantissa, places = number_at(buffer, at, end)
                if mantissa <= 0 and column != FEE:
                    return HANDED_OVER
                fields[line, column] = mantissa
                fields[line, column + 1] = places
            elif column == SYMBOL_START or FILL_ID_START <= column <= ORDER_ID_START:
                if buffer[at] != _QUOTE:
                    return HANDED_OVER
                start = at + _U1
                at = past_name(buffer, start, end)
                length = at - start - _U1
                if length > (_ORDER_ID_BYTES_MAX if column == ORDER_ID_START else _NAME_BYTES_MAX):
                    return HANDED_OVER
                fields[line, column] = start
                fields[line, column + 1] = length
            else:
                choice, at = choice_at(buffer, at, end, column)
                if column == KIND:
                    kind = choice
                else:
                    fields[line, column] = choice
            if at == _U0:
                return HANDED_OVER

        # What follows it.
        at = past_spaces(buffer, at)
        if buffer[at] != _COMMA:
            break

    if at != last:
        return HANDED_OVER
    if kind == MARK:
        if held & _MARK_NEEDS != _MARK_NEEDS or seen & ~_MARK_TAKES != _U0:
            return HANDED_OVER
        if held & _HAS_INDEX_PRICE == _U0:
            fields[line, INDEX_PRICE_PLACES] = -1
        return MARK
    if held & _FILL_NEEDS != _FILL_NEEDS or seen & ~_FILL_TAKES != _U0:
        return HANDED_OVER
    if held & _HAS_FEE == _U0:
        fields[line, FEE_PLACES] = -1
    if held & _HAS_ORDER_ID == _U0:
        fields[line, ORDER_ID_LENGTH] = 0
    if held & _HAS_LEG == _U0:
        fields[line, LEG] = NET
    if held & _HAS_ISOLATED == _U0:
        fields[line, ISOLATED] = 0
    return FILL


@inlined
def is_space(byte):
    """Return whether a byte is one of JSON's four spaces; nearly all bytes are above them."""
    return byte <= _SPACE and byte in (_SPACE, _RETURN, _LINE_FEED, _TAB)


@inlined
def past_spaces(buffer, at):
    """Return the first position from ``at`` on that holds no space; there must be one."""
    while is_space(buffer[at]):
        at += _U1
    return at


@inlined
def key_at(buffer, at, end):
    """Return the first column of the field whose key stands at ``at``, and the position behind its closing quote.

    The position is 0 if the key is unknown. A chain of comparisons beats a table: all lines of a topic have the same
    keys in the same order, so that the processor has guessed the key before it has read it.
    """
    word = word_at(buffer, at, end)
    if word & _M3 == _TS:
        return TS, at + _U3
    if word & _M6 == _PRICE:
        return PRICE, at + _U6
    if word & _M7 == _SYMBOL:
        return SYMBOL_START, at + _U7
    if word & _M5 == _TYPE:
        return KIND, at + _U5
    if word & _M4 == _QTY:
        return QTY, at + _U4
    if word & _M5 == _SIDE:
        return SIDE, at + _U5
    if word == _ACCOUNT:
        return ACCOUNT_START, at + _U8
    if word == _FILL_ID:
        return FILL_ID_START, at + _U8
    if word & _M4 == _FEE:
        return FEE, at + _U4
    if word == _ORDER_ID and buffer[at + _U8] == _QUOTE:
        return ORDER_ID_START, at + _U9
    if word & _M4 == _LEG:
        return LEG, at + _U4
    if word == _ISOLATED and buffer[at + _U8] == _QUOTE:
        return ISOLATED, at + _U9
    if word == _INDEX_PR and word_at(buffer, at + _U8, end) & _M4 == _ICE:
        return INDEX_PRICE, at + _U12
    return KIND, _U0


@inlined
def choice_at(buffer, at, end, column):
    """Return the code of the word at ``at`` in a field, and the position behind it, 0 if the field has no such word."""
    word = word_at(buffer, at, end)
    if column == KIND:
        if word & _M6 == _MARK:
            return MARK, at + _U6
        if word & _M6 == _FILL:
            return FILL, at + _U6
    elif column == SIDE:
        if word & _M5 == _BUY:
            return BUY, at + _U5
        if word & _M6 == _SELL:
            return SELL, at + _U6
    elif column == LEG:
        if word & _M5 == _NET:
            return NET, at + _U5
        if word & _M6 == _LONG:
            return LONG, at + _U6
        if word & _M7 == _SHORT:
            return SHORT, at + _U7
    elif word & _M4 == _TRUE:
        return 1, at + _U4
    elif word & _M5 == _FALSE:
        return 0, at + _U5
    return 0, _U0


@inlined
def past_name(buffer, at, end):
    """Return the position behind the quote that ends the name at ``at``; 0 if it is empty or not plain ASCII."""
    start = at
    while at < end:
        word = word_at(buffer, at, end)
        quotes = zero_bytes(word ^ _QUOTES)
        # Above the lowest byte that is below a space others may be marked, but the lowest is what counts.
        odd = quotes | zero_bytes(word ^ _BACKSLASHES) | (((word - _SPACES) | word) & _TOP_BITS)
        if odd != _U0:
            at += bytes_before(odd)
            is_quote = odd & ~(odd - _U1) & quotes != _U0
            return at + _U1 if is_quote and at > start else _U0
        at += _U8
    return _U0


@inlined
def time_at(buffer, at, end):
    """Return the position behind a JSON integer of 0 to 2**63 - 1 and its value; the position is 0 if it is none."""
    stop = past_digits(buffer, at, end)
    digits = stop - at
    if digits == _U0 or digits > _TS_DIGITS_MAX or (buffer[at] == _ZERO and digits > _U1):
        return _U0, np.int64(0)
    value = digits_value(buffer, at, stop, end)
    return stop if value <= _TS_MAX else _U0, np.int64(value)


@inlined
def number_at(buffer, at, end):
    """Return the position behind an exact number, its mantissa and its places; the position is 0 if it is none.

    A string such as ``"-0060.50"``, or a JSON integer, which has no leading zeros; both of at most 18 digits.
    """
    is_text = buffer[at] == _QUOTE
    at += _U1 if is_text else _U0
    is_negative = buffer[at] == _MINUS
    at += _U1 if is_negative else _U0
    stop = past_digits(buffer, at, end)
    digits = stop - at
    if digits == _U0 or digits > _DIGITS_MAX:
        return _U0, np.int64(0), np.int64(0)
    mantissa, places = digits_value(buffer, at, stop, end), _U0
    if not is_text:
        if buffer[at] == _ZERO and digits > _U1:
            return _U0, np.int64(0), np.int64(0)
        return stop, -np.int64(mantissa) if is_negative else np.int64(mantissa), np.int64(0)
    if buffer[stop] == _POINT:
        first = stop + _U1
        stop = past_digits(buffer, first, end)
        if stop == first or digits + stop - first > _DIGITS_MAX:
            return _U0, np.int64(0), np.int64(0)
        kept = stop
        while buffer[kept - _U1] == _ZERO:
            kept -= _U1
        places = kept - first
        mantissa = mantissa * _POWERS[places] + digits_value(buffer, first, kept, end)
    if buffer[stop] != _QUOTE:
        return _U0, np.int64(0), np.int64(0)
    return stop + _U1, -np.int64(mantissa) if is_negative else np.int64(mantissa), np.int64(places)


@inlined
def past_digits(buffer, at, end):
    """Return the first position from ``at`` on that holds no digit; there must be one."""
    while True:
        word = word_at(buffer, at, end) ^ _ZEROS
        odd = ((word + _BEYOND_NINE) | word) & _TOP_BITS
        if odd != _U0:
            return at + bytes_before(odd)
        at += _U8


@inlined
def digits_value(buffer, at, stop, end):
    """Return the number that the digits from ``at`` to ``stop`` write, modulo 2**64; 0 if there are none."""
    value = _U0
    while stop - at >= _U8:
        value = value * _POWER8 + eight_digits(full_word(buffer, at) ^ _ZEROS)
        at += _U8
    count = stop - at
    if count == _U0:
        return value
    # Moved up so that what comes behind the digits falls off, and zeros come in front.
    word = (word_at(buffer, at, end) ^ _ZEROS) << ((_U8 - count) << _U3)
    return value * _POWERS[count] + eight_digits(word)


@inlined
def eight_digits(word):
    """Return the number that eight bytes of 0 to 9 write, the first one lowest: by pairs, fours, then all."""
    word = word * _U10 + (word >> _U8)
    return ((word & _PAIRS) * _PAIRS_HIGH + ((word >> _U16) & _PAIRS) * _PAIRS_LOW) >> _U32


@inlined
def zero_bytes(word):
    """Return the top bit of each byte of ``word`` that is 0."""
    return ~(((word & _LOW_BITS) + _LOW_BITS) | word | _LOW_BITS)


@inlined
def bytes_before(marked):
    """Return how many bytes stand below the lowest one whose top bit is set; there must be one."""
    return ((((marked - _U1) & ~marked) & _ONES) * _ONES >> _U56) - _U1


@inlined
def word_at(buffer, at, end):
    """Return the eight bytes from ``at`` on, the first one lowest, zeros for those at ``end`` and behind."""
    return full_word(buffer, at) if at + _U8 <= end else cut_word(buffer, at, end)


@inlined
def full_word(buffer, at):
    """Return eight bytes, all of them inside ``buffer``; the compiler makes one read of it."""
    return (
        np.uint64(buffer[at])
        | np.uint64(buffer[at + _U1]) << _U8
        | np.uint64(buffer[at + _U2]) << _U16
        | np.uint64(buffer[at + _U3]) << _U24
        | np.uint64(buffer[at + _U4]) << _U32
        | np.uint64(buffer[at + _U5]) << _U40
        | np.uint64(buffer[at + _U6]) << _U48
        | np.uint64(buffer[at + _U7]) << _U56
    )


@subkernel
def cut_word(buffer, at, end):
    """Return the fewer than eight bytes from ``at`` to ``end``, the first one lowest."""
    word, shift = _U0, _U0
    while at < end:
        word |= np.uint64(buffer[at]) << shift
        shift += _U8
        at += _U1
    return word
