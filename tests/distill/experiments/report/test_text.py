"""Text of rows is bounded and has no control characters."""

from distill.experiments.report import text


def test_hostile_text_is_bounded_and_visible():
    assert text.shown("a\u202eb\ud800\x1b[31m") == "a⟨202E⟩b⟨D800⟩⟨001B⟩[31m"
    assert text.shown("line\n\tnext") == "line\n\tnext"
    long = text.shown("\x00" * 50_000)
    assert len(long) < 10_000 and long.endswith("(50,000 characters)")
    text.shown("\ud800" * 3).encode("utf-8")
    assert text.one_line("  a\n b\u2028c ") == "a b c"


def test_numbers():
    assert [text.signed(0.0), text.number(0.5, 1), text.number(float("inf")), text.large(60_506_624)] == [
        "+0.0", "0.5", "∞", "60.5M",
    ]  # fmt: skip
    assert text.number(3.2e15) == "3.20e+15" and text.number(100.0) == "100" and text.number(-2.5) == "−2.5"
