/* The Python stack of a thread, read without the GIL: for CPython 3.13 and 3.14, which hide what they have.
 *
 * As that, behind faulthandler, it takes no references and allocates nothing.  The thread must not run. */
#ifndef PROACTORX_SYS_FRAMES_H
#define PROACTORX_SYS_FRAMES_H

#include <Python.h>

#if PY_VERSION_HEX >= 0x030D0000 && PY_VERSION_HEX < 0x030F0000 && !defined(Py_GIL_DISABLED) && \
    !defined(_WIN32) && !defined(PYPY_VERSION)
#define PX_FRAMES 1
#ifndef Py_BUILD_CORE
#define Py_BUILD_CORE 1
#endif
#if PY_VERSION_HEX >= 0x030E0000
#include "internal/pycore_interpframe.h"
#define PX_OF_THE_INTERPRETER FRAME_OWNED_BY_INTERPRETER
#else
#include "internal/pycore_frame.h"
#define PX_OF_THE_INTERPRETER FRAME_OWNED_BY_CSTACK
#endif
#include <stdio.h>
#include <unistd.h>

#define PX_FRAMES_TITLE "Stack (most recent call first):\n"
enum { PX_MOST_FRAMES = 100, PX_LONGEST_NAME = 300 };

/* The text of a str, as far as it is ASCII. */
static inline void px_ascii(PyObject *text, char *to) {
    Py_ssize_t length = 0, place;
    if (text != NULL && PyUnicode_Check(text)) {
        length = PyUnicode_GET_LENGTH(text);
        if (length > PX_LONGEST_NAME) length = PX_LONGEST_NAME;
        for (place = 0; place < length; place++) {
            Py_UCS4 letter = PyUnicode_READ_CHAR(text, place);
            to[place] = letter >= 32 && letter < 127 ? (char)letter : '?';
        }
    }
    to[length] = 0;
}

static inline void px_frames(int fd, void *state) {
    char file[PX_LONGEST_NAME + 1], name[PX_LONGEST_NAME + 1], line[2 * PX_LONGEST_NAME + 100];
    struct _PyInterpreterFrame *frame = ((PyThreadState *)state)->current_frame;
    int left = PX_MOST_FRAMES, length = (int)sizeof PX_FRAMES_TITLE - 1;
    if (write(fd, PX_FRAMES_TITLE, (size_t)length) < 0) return;
    for (; frame != NULL && left; frame = frame->previous) {
        PyCodeObject *code;
        if (frame->owner == PX_OF_THE_INTERPRETER) continue;
        code = _PyFrame_GetCode(frame);
        if (code == NULL || !PyCode_Check(code)) continue;
        px_ascii(code->co_filename, file);
        px_ascii(code->co_qualname, name);
        length = snprintf(line, sizeof line, "  File \"%s\", line %d in %s\n", file,
                          PyUnstable_InterpreterFrame_GetLine(frame), name);
        if (write(fd, line, (size_t)length) < 0) return;
        left--;
    }
}
#else
#define PX_FRAMES 0
static inline void px_frames(int fd, void *state) { (void)fd, (void)state; }
#endif

#endif
