"""Names the kind of a file by its first bytes, for people who have given the wrong one."""

from __future__ import annotations

import re

__all__ = ("FIRST_BYTES", "kind_of", "table_kind")

#: Bytes of a file that are enough to tell its kind.
FIRST_BYTES = 1_024

_TAR_AT = 257
_KINDS = (
    (b"\x1f\x8b", "compressed with gzip"),
    (b"BZh", "compressed with bzip2; unpack it, or compress it with gzip"),
    (b"\xfd7zXZ\x00", "compressed with xz; unpack it, or compress it with gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it, or compress it with gzip"),
    (b"\x04\x22\x4d\x18", "compressed with lz4; unpack it, or compress it with gzip"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive; unpack it and give the file inside"),
    (b"Rar!\x1a\x07", "a RAR archive; unpack it and give the file inside"),
    (b"PK\x03\x04", "a ZIP archive (or an Office document); unpack it and give the file inside"),
    (b"PK\x05\x06", "an empty ZIP archive; give a FASTQ file"),
    (b"LZIP\x01", "compressed with lzip; unpack it, or compress it with gzip"),
    (b"]\0\0", "compressed with lzma; unpack it, or compress it with gzip"),
    (b"\x1f\x9d", "compressed with compress (.Z); unpack it, or compress it with gzip"),
    (b"crypt4gh", "encrypted (Crypt4GH); decrypt it first"),
    (b"-----BEGIN PGP", "encrypted or signed (PGP); decrypt it first"),
    (b"age-encryption.org", "encrypted (age); decrypt it first"),
    (b"CRAM", "a CRAM file; turn it into FASTQ with `samtools fastq`"),
    (b"BAM\x01", "a BAM file; turn it into FASTQ with `samtools fastq`"),
    (b"NCBI.sra", "an SRA archive; turn it into FASTQ with `fasterq-dump`"),
    (b"\x89HDF\r\n", "an HDF5 file, perhaps FAST5 (raw signal); call its bases first"),
    (b"\x8bPOD", "a POD5 file (raw signal); call its bases first"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a picture (PNG)"),
    (b"\xff\xd8\xff", "a picture (JPEG)"),
    (b"{\\rtf", "a document of a word processor (RTF); save it as plain text"),
    (b"\xd0\xcf\x11\xe0", "an old Office document; save it as plain text"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3", "a database (SQLite)"),
    (b"PAR1", "a table (Parquet)"),
    (b"\x93NUMPY", "an array of numpy"),
    (b"\0\x05\x16\x07", "a file that a Mac stores beside another one; give the file without ._ before its name"),
    (b"\0\0\xfe\xff", "text in UTF-32; save it as plain text (ASCII or UTF-8)"),
    (b"\xff\xfe\x00\x00", "text in UTF-32; save it as plain text (ASCII or UTF-8)"),
    (b"\xff\xfe", "text in UTF-16, with two bytes for each character; save it as plain text (ASCII or UTF-8)"),
    (b"\xfe\xff", "text in UTF-16, with two bytes for each character; save it as plain text (ASCII or UTF-8)"),
    (b"\xef\xbb\xbf", "text that begins with a byte order mark (BOM); save it as UTF-8 without one"),
    (b"version https://git-lfs", "a pointer of Git LFS, and not the file itself; fetch it with `git lfs pull`"),
    (b"/annex/objects/", "a pointer of git-annex, and not the file itself; fetch it with `git annex get`"),
    (b"HTTP/1.", "an answer of a server with its headers; save its body alone (`curl` without -i)"),
    (b"#!", "a script"),
    (b"##fileformat=VCF", "a VCF file (variants); give the FASTQ file of the reads"),
    (b"##gff", "a GFF file (annotation); give the FASTQ file of the reads"),
    (b"LOCUS  ", "a GenBank file: it has no qualities; give the FASTQ file of the reads"),
    (b">", "a FASTA file: it has no qualities; give the FASTQ file that it was made from"),
)
_BOM = b"\xef\xbb\xbf"
_SAM = re.compile(rb"@(?:(?:HD|SQ|RG|PG)\t[A-Za-z][A-Za-z0-9]:|CO\t)")
#: The tags with which a page, or a part of one, begins; other tags are XML. JSON is an object or an array.
_HTML = re.compile(
    rb"<(?:!doctype html|!--|(?:html|head|body|title|meta|link|style|script|center|div|span|p|h[1-6]|a|b|br|hr|pre|"
    rb"table|form|main|section)\b)"
)
_XML = re.compile(rb"<[?!a-z]")
_JSON = re.compile(rb"\{\s*[\"}]|\[\s*[\[{\"\]\d]")
_UTF_32 = re.compile(rb"(?:[\t-~]\0\0\0){4}|(?:\0\0\0[\t-~]){4}")
_TEXT_BYTES = bytes({*range(7, 14), 27, *range(32, 256)} - {127})


def kind_of(first: bytes) -> str:
    """Name the kind of a file by its first bytes, as "a PDF document", with a remedy; "" for any other file."""
    first = first[:FIRST_BYTES]
    if first.startswith(_BOM) and (behind := kind_of(first.removeprefix(_BOM))):
        return behind
    for begin, kind in _KINDS:
        if first.startswith(begin):
            return kind
    if _SAM.match(first):
        return "a SAM file; turn it into FASTQ with `samtools fastq`"
    if first[_TAR_AT : _TAR_AT + 5] == b"ustar":
        return "a tar archive; unpack it and give the file inside"
    if first and not first.strip(b"\0"):
        return "made of zero bytes: the disk was full, or the copy broke off; copy it again"
    if _is_wide(first):
        return "text in UTF-16, with two bytes for each character; save it as plain text (ASCII or UTF-8)"
    if _UTF_32.match(first):
        return "text in UTF-32; save it as plain text (ASCII or UTF-8)"
    return _page_kind(first.lstrip().lower())


def table_kind(line: bytes) -> str:
    """Return the kind of a table by its first line, a sample sheet or alignments; "" for another file."""
    if line.translate(None, _TEXT_BYTES):
        return "no text, but data of another program; give the FASTQ file of the reads"
    cells = line.split(b"\t")
    if len(cells) >= 11 and cells[1].isdigit() and cells[3].isdigit():
        return "a SAM file without its header; turn it into FASTQ with `samtools fastq`"
    if len(cells) > 1 or line.count(b",") > 1 or line.count(b";") > 1:
        return "a table, perhaps a sample sheet; give the FASTQ files that it names"
    return ""


def _is_wide(first: bytes) -> bool:
    """Return whether every other byte is zero, in either order."""
    pairs = first[: len(first) // 2 * 2]
    return len(pairs) >= 8 and any(not pairs[at::2].strip(b"\0") and b"\0" not in pairs[1 - at :: 2] for at in (0, 1))


def _page_kind(text: bytes) -> str:
    """Return the kind of a page or an answer that was saved in the place of a file."""
    again = "; the download has failed (a login, or a wrong address?): fetch the file again"
    if _HTML.match(text):
        return f"a web page (HTML){again}"
    if _XML.match(text):
        return f"an answer of a server (XML){again}"
    if _JSON.match(text):
        return f"an answer of a server (JSON){again}"
    return ""
