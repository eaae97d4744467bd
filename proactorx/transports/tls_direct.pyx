"""The bytes of a TLS connection without a Python call: OpenSSL's functions on the connection of an
``SSLObject``.

The ``ssl`` module makes the connection, its context, its handshake and its end, and stays the owner.  For the
bytes in between each of its calls costs a Python call, gives up the interpreter's lock and takes it back, and
tells "nothing there" by an exception.  So ``SSL_read`` and ``SSL_write`` of the libssl that the module itself
uses are called directly, on its ``SSL *``.  What they report as an error is asked again of the module: a
failed connection stays failed, and the reason is still in OpenSSL's queue of errors, so the exception is the
module's own.

The module's two memory BIOs copy each record twice, clear the memory before, and keep a buffer of the largest
record for as long as the connection lives.  A BIO of ours takes their place (``proactorx/sys/wire.h``): it
reads from the memory that the loop has received into, and writes into the socket, or into the bytes object
that is queued.  The memory BIOs are behind it: what is not read when the loop wants its memory back, and what
OpenSSL writes while nobody asked it to, goes into them, as all does that the module is called for.

The ``SSL *`` is a field of an object that is not ours.  It is used where everything agrees: a version of
CPython whose object is known; the module's own note in the ``SSL`` refers back to the object; its BIOs are
those of the two ``MemoryBIO``s; what goes into one side comes out of the other.  Else, and on free-threaded
builds, where the module has a lock of its own, and with ``PROACTORX_TLS=ssl`` in the environment, all goes
through the module.  With ``PROACTORX_TLS=buffers`` only its memory BIOs stay; with ``PROACTORX_TLS=direct``
the kernel encrypts no file (``tls_kernel``).
"""

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from proactorx.sys.ktls cimport px_keys_prove, px_ktls_start
from proactorx.sys.openssl cimport (
    PX_SSL_CTRL_SET_DH_AUTO, PX_SSL_KEY_UPDATE_NONE, PX_SSL_OP_ENABLE_KTLS, PX_SSL_SENT_SHUTDOWN,
    PX_SSL_WANT_READ, px_openssl, px_openssl_load, px_openssl_load_bio, px_openssl_load_keys, px_readable,
)
from proactorx.sys.wire cimport px_wire, px_wire_init, px_wire_open

import os
import ssl
import sys

from proactorx.sys import python

cdef extern from "Python.h":
    PyObject *PyBytes_FromStringAndSize(const char *, Py_ssize_t) except NULL
    int _PyBytes_Resize(PyObject **, Py_ssize_t) except -1

cdef enum:
    LARGEST = 1 << 30    # OpenSSL counts in int
    LOOKED_AT = 256      # bytes at an address that are read before anything trusts it
    WORD = 0x7fffffff    # of the options, those that every version of OpenSSL and Python has

cdef px_openssl lib
cdef object SSLObject = ssl.SSLObject
cdef object plain_read = ssl.SSLObject.read
cdef object plain_write = ssl.SSLObject.write
cdef str refusal = None      # why the ssl module does it all; "": it does not; None: nobody has looked yet
cdef str buffered = ""       # why its memory BIOs are used; "": they are not
cdef str no_kernel = ""      # why the kernel encrypts nothing; "": it may
cdef tuple WAYS = ("ssl", "buffers", "direct", "kernel")
cdef str allowed = "kernel"

#: The upper-layer protocols of TCP that the kernel has, networking/tls.rst. To try setsockopt(2) with TCP_ULP
#: instead would load the module "tls" where that is allowed.
cdef str OFFERED = "/proc/sys/net/ipv4/tcp_available_ulp"


cdef inline void *field(object thing, int index) noexcept:
    """Word `index` behind the head of an object."""
    return (<void **>(<char *><void *>thing + sizeof(PyObject)))[index]


cdef void *ssl_of(object inner, object incoming, object outgoing) except? NULL:
    """The ``SSL *`` of ``_ssl._SSLSocket``, whose fields are a weak reference and that; NULL: in doubt."""
    cdef void *connection = field(inner, 1)
    if connection == NULL or lib.ssl_get_ex_data(connection, 0) != <void *>inner:
        return NULL
    if (lib.ssl_get_rbio(connection) != field(incoming, 0)
            or lib.ssl_get_wbio(connection) != field(outgoing, 0)):
        return NULL
    return connection


cdef str look():
    """Why the functions cannot be used in this process; "": they can."""
    global buffered, no_kernel
    cdef const char *problem
    cdef bytes path
    cdef str refused
    wish = os.environ.get("PROACTORX_TLS") or "kernel"
    if wish not in WAYS:
        raise ValueError(f"PROACTORX_TLS={wish!r}: 'ssl', 'buffers', 'direct' or 'kernel' are known")
    if wish == "ssl":
        return "PROACTORX_TLS=ssl"
    if sys.implementation.name != "cpython" or not (3, 11) <= sys.version_info[:2] <= (3, 15):
        return "this version of Python is not known"
    if python.FREE_THREADED:
        return "free-threaded: the ssl module has a lock of its own"
    if not ssl.OPENSSL_VERSION.startswith(("OpenSSL 1.1.1", "OpenSSL 3.")):
        return f"{ssl.OPENSSL_VERSION} is not known"
    module = sys.modules.get("_ssl")
    path = os.fsencode(getattr(module, "__file__", None) or b"")
    problem = px_openssl_load(&lib, path)
    if problem != NULL:
        return problem.decode()
    refused = trial(module)
    if not refused:
        buffered = f"PROACTORX_TLS={wish}" if wish == "buffers" else wire_trial(path)
    if not refused and not buffered:
        no_kernel = f"PROACTORX_TLS={wish}" if wish == "direct" else look_at_kernel(path)
    return refused


cdef str trial(module):
    """Ask both ways on a connection that is thrown away."""
    cdef void *connection
    cdef char byte = 22
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.options |= ssl.OP_NO_TICKET  # not the default: to be recognized by
    whole = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    inner = whole._sslobj
    if type(inner) is not getattr(module, "_SSLSocket", None):
        return "SSLObject is not the ssl module's"
    if <size_t>type(inner).__basicsize__ < sizeof(PyObject) + 2 * sizeof(void *):
        return "the ssl module's object is not known"
    connection = field(inner, 1)
    if not px_readable(connection, LOOKED_AT) or ssl_of(inner, incoming, outgoing) != connection:
        return "the ssl module's object is not known"
    if (lib.ssl_get_options(connection) & WORD) != (<unsigned long long>int(context.options) & WORD):
        return "the options of a connection differ"
    if (lib.ssl_get_current_cipher(connection) != NULL) != (whole.cipher() is not None):
        return "the cipher of a connection differs"
    try:
        whole.do_handshake()
    except ssl.SSLWantReadError:
        pass
    if not outgoing.pending or lib.bio_ctrl_pending(field(outgoing, 0)) != <size_t>outgoing.pending:
        return "what the ssl module writes is not seen"
    if lib.bio_write(field(incoming, 0), &byte, 1) != 1 or incoming.pending != 1:
        return "what is written is not seen by the ssl module"
    return ""


cdef str wire_trial(bytes path):
    """Why no BIO of ours can be used; "": the module's calls move their bytes through one."""
    cdef const char *problem = px_openssl_load_bio(&lib, path)
    cdef px_wire *wire
    cdef void *bio
    cdef char hello[4096]
    cdef bytes alert = bytes([21, 3, 3, 0, 2, 2, 40])  # handshake_failure, RFC 8446 section 6
    if problem != NULL:
        return problem.decode()
    if not px_wire_init(&lib):
        return "OpenSSL makes no BIO"
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    whole = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(incoming, outgoing, server_hostname="localhost")
    wire = px_wire_open(field(whole._sslobj, 1), field(incoming, 0), field(outgoing, 0), &bio)
    if wire == NULL:
        return "OpenSSL makes no BIO"
    wire.sink, wire.room = hello, sizeof(hello)
    try:
        whole.do_handshake()
    except ssl.SSLWantReadError:
        pass
    wire.room = 0
    wire.source, wire.left = PyBytes_AS_STRING(alert), len(alert)
    refused = ""
    try:
        whole.do_handshake()
    except ssl.SSLWantReadError:
        refused = "what it holds is not read"
    except ssl.SSLError:
        pass
    if wire.left or not wire.used or hello[0] != 22 or outgoing.pending or incoming.pending:
        refused = refused or "what is written does not come to it"
    wire.left = 0
    lib.bio_free(bio)
    return refused


cdef str look_at_kernel(bytes path):
    """Why no kernel gets the keys of a connection; "": it may."""
    cdef const char *problem
    if sys.platform != "linux":
        return "only Linux is looked at"
    problem = px_openssl_load_keys(&lib, path)
    if problem != NULL:
        return problem.decode()
    if not ssl.OPENSSL_VERSION.startswith("OpenSSL 3."):
        return f"{ssl.OPENSSL_VERSION} has no part in it"
    try:
        with open(OFFERED) as file:
            known = file.read().split()
    except OSError:
        known = []
    return "" if "tls" in known else "the kernel has no TLS, or its module is not loaded"


cdef bint keys_come() except -1:
    """Whether this build of OpenSSL offers the keys of a connection: asked of one that is thrown away."""
    cdef px_wire *wire
    cdef void *bio
    cdef void *connection
    cdef bint noted
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    answering = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for one in (context, answering):
        one.maximum_version = ssl.TLSVersion.TLSv1_2
        one.set_ciphers("ADH-AES128-GCM-SHA256:@SECLEVEL=0")  # without a certificate
    here, there = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    whole = context.wrap_bio(incoming, outgoing)
    peer = answering.wrap_bio(here, there, server_side=True)
    connection = field(whole._sslobj, 1)
    wire = px_wire_open(connection, field(incoming, 0), field(outgoing, 0), &bio)
    if wire == NULL:
        return False
    wire.noting = True
    lib.ssl_set_options(connection, PX_SSL_OP_ENABLE_KTLS)
    lib.ssl_ctrl(field(peer._sslobj, 1), PX_SSL_CTRL_SET_DH_AUTO, 1, NULL)
    for _ in range(4):
        for side in (whole, peer):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
        here.write(outgoing.read())
        incoming.write(there.read())
    noted = wire.keys != NULL
    lib.bio_free(bio)
    return noted


def kernel():
    """Say whether the kernel encrypts files that are sent, in words: "yes (...)" or "no (...)"."""
    cdef str reason
    way = how()
    if way != "libssl directly":
        reason = way if allowed != "kernel" else f"TLS uses {way}"
    elif allowed != "kernel":
        reason = "switched off"
    elif no_kernel:
        reason = no_kernel
    elif not keys_come():
        reason = "this build of OpenSSL gives no keys to it"
    else:
        return "yes (loop.sendfile of 64 KiB or more)"
    return f"no ({reason})"


def refuse_kernel(str why not None):
    """Set why the kernel is given no keys, "": it is; return what was so before (tests)."""
    global no_kernel
    how()
    before, no_kernel = no_kernel, why
    return before


def how():
    """Say what TLS connections use, in words."""
    global refusal
    if refusal is None:
        refusal = look()
    if allowed == "ssl":
        return "the ssl module (switched off)"
    if refusal:
        return f"the ssl module ({refusal})"
    reason = buffered or ("switched off" if allowed == "buffers" else "")
    return f"libssl directly, on the ssl module's buffers ({reason})" if reason else "libssl directly"


def allow(str way not None):
    """Set what connections made from now on may use, "ssl", "buffers", "direct" or "kernel"; return what they
    might before (tests).
    """
    global allowed
    if way not in WAYS:
        raise ValueError(way)
    before, allowed = allowed, way
    return before


cdef int direct_open(Direct *direct, object sslobj, object incoming, object outgoing) except -1:
    """Fill `direct` for a connection; its `ssl` stays NULL where the ssl module is to do all."""
    global refusal
    direct.ssl = NULL
    if refusal is None:
        refusal = look()
    if refusal or allowed == "ssl" or type(sslobj) is not SSLObject:
        return 0
    if SSLObject.read is not plain_read or SSLObject.write is not plain_write:
        return 0
    context = sslobj.context
    # Their callbacks leave an exception for the module's next call to raise.
    if (getattr(context, "_msg_callback", None) is not None or context.keylog_filename is not None
            or context.post_handshake_auth):
        return 0
    direct.ssl = ssl_of(sslobj._sslobj, incoming, outgoing)
    if direct.ssl == NULL:
        return 0
    direct.rbio = lib.ssl_get_rbio(direct.ssl)
    direct.wbio = lib.ssl_get_wbio(direct.ssl)
    if not buffered and allowed != "buffers":
        direct.wire = px_wire_open(direct.ssl, direct.rbio, direct.wbio, &direct.bio)
        if direct.wire != NULL and not no_kernel and allowed == "kernel":
            direct.wire.noting = True
            lib.ssl_set_options(direct.ssl, PX_SSL_OP_ENABLE_KTLS)
    return 0


cdef void direct_close(Direct *direct) noexcept:
    """The connection may live on, with who holds its ``SSLObject``."""
    if direct.wire != NULL:
        direct.wire = NULL
        lib.bio_free(direct.bio)


cdef inline void no_errors() noexcept:
    """SSL_get_error(3) looks at the queue too: errors of others must not be in it."""
    if lib.err_peek_error():  # to clear an empty one takes ten times as long
        lib.err_clear_error()


cdef Py_ssize_t outcome(Direct *direct, int result) noexcept:
    """What a call that has moved nothing means."""
    cdef int error = lib.ssl_get_error(direct.ssl, result)
    return AGAIN if error == PX_SSL_WANT_READ else ASK_MODULE


cdef Py_ssize_t direct_read(Direct *direct, char *memory, Py_ssize_t room) noexcept:
    """How many bytes were decrypted to `memory`, not 0; AGAIN; ASK_MODULE (also at the peer's end)."""
    cdef int count
    no_errors()
    count = lib.ssl_read(direct.ssl, memory, <int>min(room, LARGEST))
    return count if count > 0 else outcome(direct, count)


cdef object direct_take(Direct *direct, Py_ssize_t room, Py_ssize_t *count):
    """The same, as bytes; `count` tells what `direct_read` does."""
    cdef PyObject *data = PyBytes_FromStringAndSize(NULL, room)
    cdef object taken
    count[0] = direct_read(direct, PyBytes_AS_STRING(<object>data), room)
    if count[0] <= 0:
        Py_DECREF(<object>data)
        return None
    _PyBytes_Resize(&data, count[0])
    taken = <object>data
    Py_DECREF(taken)  # the new reference: `taken` holds one
    return taken


cdef Py_ssize_t direct_write(Direct *direct, const char *memory, Py_ssize_t size) noexcept:
    """How many bytes were encrypted, one record or more; AGAIN; ASK_MODULE."""
    cdef int count
    no_errors()
    if size >= UNLOCKED:
        with nogil:
            count = lib.ssl_write(direct.ssl, memory, <int>min(size, LARGEST))
    else:
        count = lib.ssl_write(direct.ssl, memory, <int>size)
    return count if count > 0 else outcome(direct, count)


cdef int direct_feed(Direct *direct, const char *memory, Py_ssize_t size) except -1:
    """Give ciphertext to the connection, lent until `direct_keep`."""
    if direct.wire == NULL:
        return fill(direct, memory, size)
    if direct_pending(direct):
        direct_keep(direct)
        return fill(direct, memory, size)  # behind what is there
    direct.wire.source = memory
    direct.wire.left = size
    return 0


cdef int direct_keep(Direct *direct) except -1:
    """Copy what is left of lent ciphertext: its memory is wanted back."""
    cdef size_t left
    if direct.wire == NULL or not direct.wire.left:
        return 0
    left, direct.wire.left = direct.wire.left, 0
    return fill(direct, direct.wire.source, <Py_ssize_t>left)


cdef int fill(Direct *direct, const char *memory, Py_ssize_t size) except -1:
    """Copy ciphertext into the memory BIO."""
    cdef int count
    direct_filled(direct)
    while size > 0:
        count = lib.bio_write(direct.rbio, memory, <int>min(size, LARGEST))
        if count <= 0:
            lib.err_clear_error()
            raise MemoryError
        memory += count
        size -= count
    return 0


cdef void direct_filled(Direct *direct) noexcept:
    """The module's ``MemoryBIO`` is given ciphertext."""
    if direct.wire != NULL:
        direct.wire.kept = True


cdef Py_ssize_t direct_pending(Direct *direct) noexcept:
    """How much ciphertext was given and not read yet."""
    cdef size_t size
    if direct.wire != NULL and (direct.wire.left or not direct.wire.kept):
        return <Py_ssize_t>direct.wire.left
    size = lib.bio_ctrl_pending(direct.rbio)
    if direct.wire != NULL:
        direct.wire.kept = size != 0
    return <Py_ssize_t>size


cdef size_t unsent(Direct *direct) noexcept:
    """How much ciphertext is in the memory BIO."""
    if direct.wire != NULL and not direct.wire.spilled:
        return 0
    return lib.bio_ctrl_pending(direct.wbio)


cdef object direct_drain(Direct *direct):
    """The ciphertext that is to go out, as bytes; None: there is none."""
    cdef size_t size = unsent(direct)
    cdef PyObject *raw
    cdef object data
    if not size:
        return None
    raw = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    data = <object>raw
    Py_DECREF(data)  # the new reference: `data` holds one
    lib.bio_read(direct.wbio, PyBytes_AS_STRING(data), <int>size)
    if direct.wire != NULL:
        direct.wire.spilled = False
    return data


cdef bint direct_gather(Direct *direct, Py_ssize_t room) except -1:
    """Lend memory for ciphertext until `direct_gathered`.  0: not possible now."""
    if direct.wire == NULL or direct.sink != NULL or unsent(direct):
        return 0
    direct.sink = PyBytes_FromStringAndSize(NULL, room)
    direct.wire.sink = PyBytes_AS_STRING(<object>direct.sink)
    direct.wire.room = room
    direct.wire.used = 0
    return 1


cdef object direct_gathered(Direct *direct):
    """What was written to the lent memory, as bytes; None: nothing.  The memory BIO may hold more."""
    cdef PyObject *sink = direct.sink
    cdef Py_ssize_t size
    if sink == NULL:
        return None
    size = <Py_ssize_t>direct.wire.used
    direct.sink = NULL
    direct.wire.room = direct.wire.used = 0
    if not size:
        Py_DECREF(<object>sink)
        return None
    _PyBytes_Resize(&sink, size)
    data = <object>sink
    Py_DECREF(data)  # the new reference: `data` holds one
    return data


cdef bint direct_noted(Direct *direct) noexcept:
    """Whether there are keys for the kernel."""
    return direct.wire != NULL and direct.wire.keys != NULL and not direct.wire.handed


cdef bint direct_prove(Direct *direct, bytes record) except -1:
    """Whether `record`, the last one that was made, shows that the keys and their count are right."""
    cdef const unsigned char *data = <const unsigned char *>PyBytes_AS_STRING(record)
    cdef size_t size = len(record)
    return px_keys_prove(&lib, direct.wire.keys, data, size)


cdef int direct_hand_over(Direct *direct, int fd) noexcept:
    """Let the kernel encrypt from now on what is written to `fd`: 0, -errno, or 1 where it must not."""
    cdef int error
    if not direct.wire.keys.proved or unsent(direct) or direct_renewing(direct):
        return 1
    error = px_ktls_start(fd, direct.wire.keys)
    direct.wire.handed = error == 0
    return error


cdef bint direct_renewing(Direct *direct) noexcept:
    """Whether the peer wants other keys, or OpenSSL has tried to send something of its own
    where the kernel encrypts.
    """
    return direct.wire.refused or lib.ssl_get_key_update_type(direct.ssl) != PX_SSL_KEY_UPDATE_NONE


cdef void direct_said_end(Direct *direct) noexcept:
    """Our close_notify is sent, not by OpenSSL: a session without one is not resumed, SSL_set_shutdown(3)."""
    lib.ssl_set_shutdown(direct.ssl, lib.ssl_get_shutdown(direct.ssl) | PX_SSL_SENT_SHUTDOWN)
