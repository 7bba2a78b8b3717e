"""Groups of modules of Python's standard library, by purpose.

They are the classes of `pydoc` with task=classify, near the chapters of the library's reference.
"""

from __future__ import annotations

GROUPS = {
    "concurrency": """_threading_local asynchat asyncio asyncore concurrent multiprocessing queue
        sched selectors signal subprocess threading""",
    "data types": """_collections_abc _pydatetime _pydecimal _pylong array bisect calendar
        collections colorsys copy copyreg datetime decimal enum fractions graphlib heapq numbers
        operator random reprlib secrets statistics string stringprep struct types uuid weakref
        zoneinfo""",
    "debugging": """bdb cProfile doctest faulthandler pdb profile profiling pstats pydoc timeit
        trace traceback tracemalloc unittest warnings""",
    "files": """_compression _pyio aifc bz2 chunk compression dbm filecmp fileinput fnmatch
        genericpath glob gzip io linecache lzma ntpath nturl2path os pathlib pickle pickletools
        pipes posixpath shelve shutil sndhdr sqlite3 stat sunau tarfile tempfile wave zipfile
        zipimport""",
    "internet": """cgi cgitb ftplib hashlib hmac http ipaddress socket socketserver ssl telnetlib
        urllib webbrowser wsgiref xmlrpc""",
    "language": """__future__ _py_abc abc annotationlib ast compileall contextlib ctypes dataclasses
        dis ensurepip functools imp importlib inspect keyword modulefinder opcode pkgutil
        py_compile pyclbr runpy site symtable sysconfig tabnanny tokenize typing venv zipapp""",
    "mail": """base64 email imaplib mailbox mailcap mimetypes nntplib poplib quopri smtpd smtplib
        uu""",
    "programs": """_pyrepl argparse cmd code codeop curses getopt getpass logging optparse platform
        rlcompleter""",
    "text": """_markupbase _strptime codecs configparser csv difflib gettext html json locale
        plistlib pprint re shlex textwrap tomllib xml""",
}
GROUP_OF = {module: group for group, modules in GROUPS.items() for module in modules.split()}
