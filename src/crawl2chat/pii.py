"""Personal data -> placeholders: e-mail, public IP address, phone number, payment card number, IBAN.

FineWeb replaces the first two (https://huggingface.co/datasets/HuggingFaceFW/fineweb, "Personal and Sensitive
Information"); its placeholders change from page to page, these do not, so that a page's text depends on nothing else.

    text, counts = remove_pii("Write to jane@shop.com or call +44 20 7946 0123.")

Three scans over the bytes find the lines that may hold any of this, in a third of all pages; the exact patterns see those
lines only.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

KINDS = ("num_emails", "num_ips", "num_phones", "num_cards", "num_ibans")
# What belongs to nobody: RFC 2606, RFC 5737, RFC 3849, a number kept for fiction, a masked card as receipts print it,
# and check digits that no IBAN has (ISO 7064 gives 02 to 98).
EMAIL_PLACEHOLDER, IP_V4_PLACEHOLDER, IP_V6_PLACEHOLDER = "email@example.com", "192.0.2.1", "2001:db8::1"
PHONE_PLACEHOLDER, CARD_PLACEHOLDER = "555-0100", "XXXX XXXX XXXX XXXX"
IBAN_PLACEHOLDER = "DE00 0000 0000 0000 0000 00"
MAX_PASSES = 8  # a replacement may bring another to light, as the second of two phone numbers after one "Tel:"

GAP = "\\- \u00a0\u2009\u202f\u2010\u2011"  # hyphens and blanks inside a number
PHONE_GAP = GAP + "().\u2013/"
# Digits enough for an IP address, a phone number, an account in an IBAN; for a card or an American phone number.
NUMBER = re.compile(rf"[0-9][0-9{PHONE_GAP}]{{5,}}[0-9]")
LONG_NUMBER = re.compile(rf"[0-9][0-9{PHONE_GAP}]{{10,}}[0-9]")
# Signs in the bytes of a text, each without a set of characters at its start: `re` skips to a known byte ten times as fast.
AT, COLONS, NUMBER_BYTES = re.compile(b"@"), re.compile(b":[0-9A-Fa-f]{0,4}:"), re.compile(b"0[0 ]{5,}0")
_BYTES_OF_NUMBERS = {**dict.fromkeys(PHONE_GAP.replace("\\", "").encode(), b" "), **dict.fromkeys(b"0123456789", b"0")}
TO_NUMBERS = b"".join(_BYTES_OF_NUMBERS.get(byte, b"x") for byte in range(256))
EMAIL = re.compile(  # datatrove's PIIFormatter's, without its rare forms, with letters of all alphabets, and bounded
    r"\b[\w!#$%&'*+/=?^`{|}~-]{1,64}(?:\.[\w!#$%&'*+/=?^`{|}~-]{1,64}){0,9}"
    r"@(?:[^\W_](?:[\w-]{0,62}[^\W_])?\.){1,9}(?:xn--[\w-]{1,59}|[^\W\d_]{2,63})"
)
# These start with what they may start with, and look behind after it: so `re` skips to it three times as fast.
IP_V4 = re.compile(r"[0-9](?<![\d.vV].)[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?!\.?\d)")
IP_V6 = re.compile(
    r"[23](?<![\w:.][23])[0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{0,4}(?![\w:])"
)  # 2000::/3
VERSION = re.compile(r"(?:version|release|build|firmware|ver\.)[ :]*$", re.IGNORECASE)  # 1.2.3.4 is no address then
INTERNATIONAL_PHONE = re.compile(  # +44 20 7946 0123, +1 (212) 555-0123, +49 (0)30 / 1234
    rf"\+(?<![\w+].)[0-9]{{1,4}}[{GAP}.]?(?:\([0-9]{{1,5}}\)[{GAP}.]?)?"
    rf"[0-9](?:(?:[{GAP}./\u2013]?| / )[0-9]){{3,12}}(?![0-9])"
)
AMERICAN_PHONE = re.compile(  # (212) 555-0123, 1-212-555-0123
    rf"[(0-9](?<![\w.+-].)(?:(?<=\()[0-9]{{3}}\)[{GAP}]?|(?<=1)[{GAP}.](?:\([0-9]{{3}}\)[{GAP}]?|[0-9]{{3}}[{GAP}.])"
    rf"|[0-9]{{2}}[.\u2010\u2011-])[0-9]{{3}}[{GAP}.][0-9]{{4}}(?!\w|[.\u2010\u2011-][0-9])"
)
LOCAL_PHONE = re.compile(rf"[(0-9](?<![(0-9].)(?:[{PHONE_GAP}]{{0,3}}[0-9]){{5,14}}(?![0-9])")  # 030 1234 567, after:
PHONE_MARK = re.compile(
    r"\b(?:tel(?:ephone|efon)?|phone|fax|mobile?|cell|call|hotline|whatsapp)"
    r"([:.]*)\s?(?:(?:us )?(?:on |at )|number(?: is)?:? )?$",
    re.IGNORECASE,
)
YEARS_OR_DATE = re.compile(
    r"(?:1[5-9]|20)[0-9]{2}\s?[-\u2013/]\s?(?:1[5-9]|20)[0-9]{2}"
    r"|[0-9]{4}([-./])[0-9]{1,2}\1[0-9]{1,2}|[0-9]{1,2}([-./])[0-9]{1,2}\2[0-9]{4}"
)
THOUSANDS = re.compile(r"[0-9]{1,3}(?:[ \u00a0\u2009\u202f.][0-9]{3})+")
CARD_RUN = re.compile(rf"[0-9](?<![0-9].)(?<![0-9][.,].)(?:[{GAP}]?[0-9]){{12,}}+(?![.,][0-9])")
CARD_GROUPS = {  # how issuers print them: fours and a rest, and what American Express, Diners and Maestro do
    *[(4, 4, 4, rest) for rest in (1, 2, 3, 4)], *[(4, 4, 4, 4, rest) for rest in (1, 2, 3)],
    (4, 6, 5), (4, 6, 4), (4, 3, 3, 3), (6, 13), (8, 8), *[(length,) for length in range(13, 20)],
}  # fmt: skip
# First digits and lengths of ISO/IEC 7812 numbers in use: Visa, Mastercard, Mir, American Express, Diners, JCB, Maestro,
# RuPay, Discover, UnionPay, Troy (https://en.wikipedia.org/wiki/Payment_card_number#Issuer_identification_number_(IIN)).
CARD = re.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})"
    r"|5[1-5][0-9]{14}|(?:222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}|220[0-4][0-9]{12,15}"
    r"|3[47][0-9]{13}|3(?:0[0-5]|[689][0-9])[0-9]{11,16}|35(?:2[89]|[3-8][0-9])[0-9]{12,15}"
    r"|(?:5[06-8]|67)[0-9]{11,17}|(?:6[02-5]|8[12])[0-9]{14,17}|9792[0-9]{12}"
)
# Lengths by country, of the registry of ISO 13616 (https://www.swift.com/resource/iban-registry-pdf)
IBAN_LENGTHS = {
    15: "NO", 16: "BE", 18: "DK FI FK FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
    29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
}  # fmt: skip
_BY_LENGTH = [
    rf"(?:{countries.replace(' ', '|')})[0-9]{{2}}(?:[{GAP}]?[A-Z0-9]){{{length - 4}}}"
    for length, countries in IBAN_LENGTHS.items()
]
IBAN_START = re.compile("[A-Z]{2}[0-9]{2}")
IBAN = re.compile(rf"(?:(?<![A-Za-z0-9])|(?<=IBAN))(?:{'|'.join(_BY_LENGTH)})(?![A-Za-z0-9])")


class RemovePersonalData(PipelineStep):
    """Replaces personal data in every page, and counts what it replaced."""

    type, name = "✂️ - FORMAT", "personal_data"

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for document in data:
            with self.track_time():
                document.text, counts = remove_pii(document.text)
            for kind, count in counts.items():
                if count:
                    self.stat_update(kind, value=count)
            yield document


def remove_pii(text: str) -> tuple[str, dict[str, int]]:
    """The text with placeholders, and how many of each of `KINDS` were put in. Again on its result: nothing more."""
    counts = dict.fromkeys(KINDS, 0)
    data = found = text.encode("utf-8", "surrogatepass")
    for _ in range(MAX_PASSES):
        before = data
        if b"@" in data:
            data = _clean_lines(data, AT.finditer(data), _clean_emails, counts)
        data = _clean_lines(data, NUMBER_BYTES.finditer(data.translate(TO_NUMBERS)), _clean_numbers, counts)
        data = _clean_lines(data, COLONS.finditer(data), _clean_colons, counts)
        if data == before:
            break
    return text if data is found else data.decode("utf-8", "surrogatepass"), counts


def _clean_lines(data: bytes, signs: Iterator[re.Match], clean: Callable[[str, dict], str], counts: dict) -> bytes:
    """Cleans the lines with a sign in them, few of a page: nothing that is replaced goes over the end of a line."""
    pieces, end = [], 0
    for sign in signs:
        if sign.start() >= end:
            start, after = data.rfind(b"\n", 0, sign.start()) + 1, data.find(b"\n", sign.end())
            pieces.append(data[end:start])
            end = after if after >= 0 else len(data)
            line = data[start:end].decode("utf-8", "surrogatepass")
            pieces.append(clean(line, counts).encode("utf-8", "surrogatepass"))
    return b"".join([*pieces, data[end:]]) if pieces else data


def _clean_emails(line: str, counts: dict[str, int]) -> str:
    return _replace(EMAIL, "num_emails", EMAIL_PLACEHOLDER, line, counts)


def _clean_colons(line: str, counts: dict[str, int]) -> str:
    return _replace(IP_V6, "num_ips", IP_V6_PLACEHOLDER, line, counts, lambda match: _is_global(match[0]))


def _clean_numbers(line: str, counts: dict[str, int]) -> str:
    if not NUMBER.search(line):  # its bytes looked like one
        return line
    if IBAN_START.search(line):
        line = _replace(IBAN, "num_ibans", IBAN_PLACEHOLDER, line, counts, _is_iban)
    is_long = LONG_NUMBER.search(line)
    if is_long:
        line = CARD_RUN.sub(lambda match: _without_cards(match[0], counts), line)
    if line.count(".") > 2:
        line = _replace(IP_V4, "num_ips", IP_V4_PLACEHOLDER, line, counts, _is_public_v4)
    if "+" in line:
        line = _replace(INTERNATIONAL_PHONE, "num_phones", PHONE_PLACEHOLDER, line, counts, _is_international_phone)
    if is_long:
        line = _replace(AMERICAN_PHONE, "num_phones", PHONE_PLACEHOLDER, line, counts)
    return _replace(LOCAL_PHONE, "num_phones", PHONE_PLACEHOLDER, line, counts, _is_marked_phone)


def _replace(
    pattern: re.Pattern,
    kind: str,
    placeholder: str,
    text: str,
    counts: dict[str, int],
    is_one: Callable[[re.Match], bool] = lambda match: True,
) -> str:
    def replacement(match: re.Match) -> str:
        if match[0] == placeholder or not is_one(match):
            return match[0]
        counts[kind] += 1
        return placeholder

    return pattern.sub(replacement, text)


def _is_public_v4(match: re.Match) -> bool:
    return _is_global(match[0]) and not VERSION.search(match.string, max(0, match.start() - 12), match.start())


def _is_global(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def _is_international_phone(match: re.Match) -> bool:
    """At most 15 digits (ITU-T E.164), and no term of a sum: in one piece only from nine."""
    least = 9 if match[0][1:].isdigit() else 7
    return least <= _num_digits(match[0]) <= 15


def _is_marked_phone(match: re.Match) -> bool:
    """No date, and without a colon no amount: "call 250 000 people"."""
    mark = PHONE_MARK.search(match.string, max(0, match.start() - 32), match.start())
    if not mark or YEARS_OR_DATE.fullmatch(match[0]):
        return False
    in_pieces = not match[0].isdigit() and not THOUSANDS.fullmatch(match[0])
    return bool(mark[1]) or _num_digits(match[0]) >= (7 if in_pieces else 9)


def _num_digits(text: str) -> int:
    return sum(map(str.isdigit, text))


def _is_iban(match: re.Match) -> bool:
    """ISO 7064 mod 97-10: the first four characters at the end, letters as 10 to 35."""
    number = re.sub("[^A-Z0-9]", "", match[0])
    return int("".join(str(int(character, 36)) for character in number[4:] + number[:4])) % 97 == 1


def _without_cards(run: str, counts: dict[str, int]) -> str:
    """Replaces each card number in a run of digits, which may stand between other numbers: a date, a check number."""
    groups = list(re.finditer("[0-9]+", run))
    cleaned, end, i = "", 0, 0
    while i < len(groups):
        for j in range(i + 1, min(i + 5, len(groups)) + 1):
            if tuple(len(group[0]) for group in groups[i:j]) in CARD_GROUPS:
                digits = "".join(group[0] for group in groups[i:j])
                if CARD.fullmatch(digits) and is_luhn(digits):
                    cleaned += run[end : groups[i].start()] + CARD_PLACEHOLDER
                    end, i = groups[j - 1].end(), j - 1
                    counts["num_cards"] += 1
                    break
        i += 1
    return cleaned + run[end:]


def is_luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B: every second digit from the right counts double, with its digits summed."""
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + doubled) % 10 == 0
