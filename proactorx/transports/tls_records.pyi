import logging

from proactorx.transports.stream import RawProtocol

logger: logging.Logger

class TLSRecords(RawProtocol): ...
