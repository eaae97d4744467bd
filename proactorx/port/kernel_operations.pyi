from proactorx.port.operations import Operations

class KernelOperations(Operations):
    @property
    def closed(self) -> bool: ...
