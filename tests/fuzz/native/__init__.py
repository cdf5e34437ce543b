"""The decoders under libFuzzer: a program that embeds Python, beside modules that clang has instrumented."""
