"""Becomes a job in the foreground of the terminal on stdin: python in_terminal.py SCRIPT ARGUMENTS"""

import fcntl
import os
import signal
import sys
import termios

if __name__ == "__main__":
    if os.isatty(0):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in (signal.SIGINT, signal.SIGHUP):  # what starts the tests may ignore them
        signal.signal(number, signal.SIG_DFL)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
