"""Takes a place's limits and privileges upon itself and becomes the program: launch.py FLAGS -- PROGRAM ARGUMENT...

What a program must not be able to undo comes last: the user, then the filter of system calls.
"""

import argparse
import ctypes
import os
import resource
import struct
import tempfile

PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ALLOW = 0x7FFF0000
SECCOMP_RET_ERRNO = 0x00050000

# Classic BPF: load a word, jump if it is equal, return.
BPF_LOAD_WORD, BPF_JUMP_EQUAL, BPF_RETURN = 0x20, 0x15, 0x06

# Where the filter finds the call's number and its arguments, the lower word of each first.
CALL_OFFSET, ARGUMENTS_OFFSET = 0, 16


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", action="append", default=[], help="a resource and its limit: NOFILE=64")
    parser.add_argument("--cpu", type=int, help="the one CPU that may be used")
    parser.add_argument("--in-deleted-directory", action="store_true")
    parser.add_argument("--without-environment", action="store_true")
    parser.add_argument("--close", choices=["stdout", "stderr"])
    parser.add_argument("--root", help="the directory that becomes the root")
    parser.add_argument("--user", type=int)
    parser.add_argument("--refuse", action="append", default=[], help="see refuse")
    parser.add_argument("program", nargs="+")
    arguments = parser.parse_args()

    for limit in arguments.limit:
        name, value = limit.split("=")
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (int(value), int(value)))
    if arguments.cpu is not None:
        os.sched_setaffinity(0, {arguments.cpu})
    if arguments.in_deleted_directory:
        directory = tempfile.mkdtemp()
        os.chdir(directory)
        os.rmdir(directory)
    if arguments.root:
        os.chroot(arguments.root)
        os.chdir("/")
    if arguments.user is not None:
        os.setgroups([])
        os.setgid(arguments.user)
        os.setuid(arguments.user)
    if arguments.close:
        os.close({"stdout": 1, "stderr": 2}[arguments.close])
    if arguments.refuse:
        refuse(arguments.refuse)
    environment = {} if arguments.without_environment else os.environ
    os.execve(arguments.program[0], arguments.program, environment)


def refuse(refused):
    """Has the kernel answer system calls with errors. Each is ERROR:CALL, or ERROR:CALL:ARGUMENT=VALUE."""
    instructions = []
    for one in refused:
        error, call, *argument = one.split(":")
        answer = [(BPF_RETURN, 0, 0, SECCOMP_RET_ERRNO | int(error))]
        if argument:
            index, value = map(int, argument[0].split("="))
            answer = when_equal(ARGUMENTS_OFFSET + 8 * index, value, answer)
        instructions += when_equal(CALL_OFFSET, int(call), answer)
    instructions.append((BPF_RETURN, 0, 0, SECCOMP_RET_ALLOW))
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in [
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(program), 0, 0),
    ]:
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")


def when_equal(offset, value, instructions):
    """The instructions, which are passed over unless the word at `offset` is `value`."""
    return [(BPF_LOAD_WORD, 0, 0, offset), (BPF_JUMP_EQUAL, 0, len(instructions), value), *instructions]


main()
