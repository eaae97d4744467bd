from asyncio import Future

from proactorx.transports.tls_records import TLSRecords

class TLSKernel(TLSRecords):
    def _end_later(self, _: Future[None] | None = None) -> None: ...
