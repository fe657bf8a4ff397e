"""Find and repair UTF-8 text that was decoded as Windows-1252."""

import re

# Each byte by the character that it became. Windows-1252 leaves
# five bytes undefined, which decode to control characters.
CP1252_BYTES = {
    bytes([b]).decode("cp1252") if b not in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else chr(b): b
    for b in range(128, 256)
}
MOJIBAKE_RUN = re.compile(f"[{re.escape(''.join(CP1252_BYTES))}]{{2,}}")


def repair_mojibake(text: str) -> tuple[str, int]:
    """Repair UTF-8 that was decoded as Windows-1252 (â€œ to “); return the text and the count."""
    if not ("â" in text or "Ã" in text or "Â" in text):
        return text, 0
    count = 0

    def repair(match: re.Match[str]) -> str:
        nonlocal count
        damaged = match[0]
        try:
            repaired = bytes(CP1252_BYTES[character] for character in damaged).decode()
        except UnicodeDecodeError:
            # A closing quotation mark often lost its last byte, undefined in Windows-1252.
            repaired = "”" if damaged == "â€" else damaged
        count += repaired != damaged
        return repaired

    return MOJIBAKE_RUN.sub(repair, text), count
