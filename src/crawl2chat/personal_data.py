"""E-mail addresses, public IP addresses and phone numbers -> placeholders.

FineWeb replaces the first two (https://huggingface.co/datasets/HuggingFaceFW/fineweb, "Personal and Sensitive
Information"); its placeholders change from page to page, these do not, so that a page's text depends on nothing else.
"""

import ipaddress
import re

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

EMAIL = re.compile(  # datatrove's PIIFormatter's, without its rare forms
    r"\b[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]*[A-Za-z0-9]"
)
IP_V4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?!\.?\d)")
IP_V6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{1,4}(?![\w:])")
PHONE = re.compile(
    r"(?<![\w.+-])\+\d{1,3}(?:[ .-]?\(\d{1,4}\)|[ .-]\d{1,4}|\d{2,4})(?:[ .-]?\d{2,4}){1,5}(?![\w])"  # +44 20 7946 0123
    r"|(?<![\w.+-])(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[ .-]\d{4}(?![\w])"  # (212) 555-0123
    r"|(?:(?<=\bTel)|(?<=\bPhone)|(?<=\bCall)|(?<=\bcall)|(?<=\bFax)|(?<=\bphone)|(?<=\btel)|(?<=\bMobile))"
    r"(?:[:.]+ ?| )(?:us at |on )?\(?\d{2,5}\)?(?:[ ./-]\d{2,5}){1,4}(?![\w])"  # Tel: 030 1234 567
)
# Addresses that belong to nobody: RFC 2606, RFC 5737, RFC 3849, and numbers kept for fiction.
EMAIL_PLACEHOLDER, IP_V4_PLACEHOLDER, IP_V6_PLACEHOLDER = "email@example.com", "192.0.2.1", "2001:db8::1"
PHONE_PLACEHOLDER = "555-0100"


class RemovePersonalData(PipelineStep):
    """Replaces personal data in every page, and counts what it replaced."""

    type, name = "✂️ - FORMAT", "personal_data"

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for document in data:
            with self.track_time():
                document.text, counts = remove_personal_data(document.text)
            for kind, count in counts.items():
                if count:
                    self.stat_update(kind, value=count)
            yield document


def remove_personal_data(text: str) -> tuple[str, dict[str, int]]:
    """The text with placeholders, and how many of each kind were put in."""
    num_emails = num_ips = num_ips_v6 = num_phones = 0
    if "@" in text:
        text, num_emails = EMAIL.subn(EMAIL_PLACEHOLDER, text)
    text, num_ips = _replace_public(IP_V4, IP_V4_PLACEHOLDER, text)
    if "::" in text or text.count(":") > 6:
        text, num_ips_v6 = _replace_public(IP_V6, IP_V6_PLACEHOLDER, text)
    # What follows "Tel" is matched with the mark before it, which must stay.
    text, num_phones = PHONE.subn(_phone_placeholder, text)
    return text, {"num_emails": num_emails, "num_ips": num_ips + num_ips_v6, "num_phones": num_phones}


def _phone_placeholder(match: re.Match) -> str:
    mark = re.match(r"[:.]*\s?(?:us at |on )?", match[0])[0]
    return mark + PHONE_PLACEHOLDER


def _replace_public(pattern: re.Pattern, placeholder: str, text: str) -> tuple[str, int]:
    num_replaced = 0

    def replacement(match: re.Match) -> str:
        nonlocal num_replaced
        try:
            is_public = ipaddress.ip_address(match[0]).is_global
        except ValueError:
            return match[0]
        num_replaced += is_public
        return placeholder if is_public else match[0]

    return pattern.sub(replacement, text), num_replaced
