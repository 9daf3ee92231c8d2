"""How numbers are written, `cp_compress.base.numbers`, under the path that it had at first."""

from cp_compress.base.numbers import number as number
