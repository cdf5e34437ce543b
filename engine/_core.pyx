"""The native core of everopen: one translation unit, made of the included files in the order of the data."""

include "_platform.pxi"
