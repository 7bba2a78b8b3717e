"""Asks the command server to run a command, see commands.py. Imports little: it starts often."""

import json
import os
import signal
import socket
import sys


def request(server, arguments, environment, cwd, descriptors):
    """Sends a request and returns the socket of its status.

    Args:
      server: the connection to the server.
      arguments: the command and its options.
      environment: all environment variables of the command.
      cwd: its working directory.
      descriptors: its stdin, stdout and stderr.

    Returns:
      A socket on which two lines arrive: the process id; and, when the command has ended, its exit
      code (-n after signal n) and its CPU time in seconds.
    """
    message = json.dumps({"argv": arguments, "environment": environment, "cwd": cwd}).encode()
    status, end = socket.socketpair()
    with end:
        header = len(message).to_bytes(4, "little")
        socket.send_fds(server, [header], [end.fileno(), *descriptors])
        server.sendall(message)
    return status


def main():
    """Runs the command of `sys.argv` in the place of this process; returns its exit code."""
    server = socket.socket(fileno=int(os.environ["COMMAND_SERVER"]))
    status = request(server, sys.argv[1:], dict(os.environ), os.getcwd(), (0, 1, 2)).makefile("r")
    process = int(status.readline())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: os.kill(process, received))
    code = int(status.readline().split()[0])
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
