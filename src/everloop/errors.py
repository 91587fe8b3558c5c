"""Every error a user can meet. Knows nothing of who raises it.

EverloopError
├── SpecError              the declaration is not sound
├── DataError              rows, columns or files are not as declared
│   ├── SchemaChanged      a column changed its type between two batches
│   └── BatchRefused       too large a share of a batch fails its checks
├── TrainError             the fit could not be made
├── JobError               a job did not end well
│   ├── JobTimedOut
│   └── JobKilled          by a signal; the kernel's memory killer among them
├── PackageError           a package cannot be made or opened
│   ├── ConversionRefused  the model has no faithful form as one graph
│   ├── ParityError        the graph and the trainer disagree
│   └── PackageTampered    a byte, a digest or the signature does not match
├── ServeError             the server cannot do what was asked
│   ├── CannotListen       the address is taken, not allowed or not here
│   └── RequestError       a client's mistake: becomes a 4xx
├── ReleaseError           a release cannot be changed as asked
│   └── ReleaseConflict    somebody else changed it first
├── DeliveryError          a message did not reach whom it was for
├── MirrorError            MLflow does not take what is mirrored to it
├── DurableError           a run cannot go on by itself
│   ├── LeaseLost          another worker owns the run now
│   └── NeedsDecision      the code changed under a waiting run
└── StoreError             files or database
    ├── StoreFull          no space left; nothing was half written
    └── NotFound           a name or id that does not exist
"""


class EverloopError(Exception):
    """A message says the fact, the value and the remedy. ``exit_code`` is what the command line ends with."""

    exit_code = 1


class SpecError(EverloopError):
    exit_code = 3


class DataError(EverloopError):
    exit_code = 4


class SchemaChanged(DataError):
    pass


class BatchRefused(DataError):
    pass


class TrainError(EverloopError):
    exit_code = 5


class JobError(EverloopError):
    exit_code = 5


class JobTimedOut(JobError):
    pass


class JobKilled(JobError):
    pass


class PackageError(EverloopError):
    exit_code = 6


class ConversionRefused(PackageError):
    pass


class ParityError(PackageError):
    pass


class PackageTampered(PackageError):
    pass


class ServeError(EverloopError):
    exit_code = 7


class CannotListen(ServeError):
    pass


class RequestError(ServeError):
    """A client's mistake, or a request that cannot be served now.

    ``status`` is the HTTP status to answer with, ``reason`` what it is counted under ("" for the usual reason of its
    status), ``retry_after`` seconds after which to try again, None where that would not help.
    """

    def __init__(self, message: str, *, status: int = 400, reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class ReleaseError(EverloopError):
    exit_code = 8


class ReleaseConflict(ReleaseError):
    pass


class DeliveryError(EverloopError):
    exit_code = 1


class MirrorError(EverloopError):
    exit_code = 1


class DurableError(EverloopError):
    exit_code = 9


class LeaseLost(DurableError):
    pass


class NeedsDecision(DurableError):
    pass


class StoreError(EverloopError):
    exit_code = 10


class StoreFull(StoreError):
    pass


class NotFound(StoreError):
    exit_code = 11
