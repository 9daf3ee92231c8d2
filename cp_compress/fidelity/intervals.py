"""What `judging.intervals` holds for users, under the path that it had at first."""

from cp_compress.fidelity.judging.intervals import BoundedMean as BoundedMean
from cp_compress.fidelity.judging.intervals import Evidence as Evidence
from cp_compress.fidelity.judging.intervals import Interval as Interval
from cp_compress.fidelity.judging.intervals import PairedDrop as PairedDrop
from cp_compress.fidelity.judging.intervals import Proportion as Proportion
from cp_compress.fidelity.judging.intervals import Quantile as Quantile
