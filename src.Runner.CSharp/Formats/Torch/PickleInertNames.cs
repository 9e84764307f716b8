namespace Hybrid.Runner.Formats;

/// <content>
/// Names of classes and functions whose objects may stand beside tensors. Nothing is made of them or called in any case; a file that
/// names what opens, runs or imports something is not what it seems, and is refused as such.
/// </content>
internal static partial class PickleNames
{
    /// <summary>Python's own modules, but for those whose objects settings are made of.</summary>
    private static readonly HashSet<string> Library = Words(
        """
        abc aifc antigravity ast asynchat asyncio asyncore atexit audioop base64 bdb binascii bisect builtins bz2 cPickle
        cProfile calendar cgi cgitb chunk cmath cmd code codecs codeop colorsys commands compileall concurrent configparser
        contextlib contextvars copy crypt csv ctypes curses dbm difflib dis distutils doctest email encodings ensurepip errno
        faulthandler fcntl filecmp fileinput fnmatch ftplib gc genericpath getopt getpass gettext glob graphlib grp gzip
        hashlib heapq hmac html http idlelib imaplib imghdr imp importlib inspect io ipaddress itertools json keyword lib2to3
        linecache locale lzma mailbox mailcap marshal math mimetypes mmap modulefinder msilib msvcrt multiprocessing netrc new
        nis nntplib nt ntpath nturl2path opcode operator optparse os ossaudiodev pdb pickle pickletools pipes pkgutil platform
        plistlib popen2 poplib posix posixpath pprint profile pstats pty pwd py_compile pyclbr pydoc pydoc_data pyexpat queue
        quopri readline reprlib resource rlcompleter runpy sched secrets select selectors sets shelve shlex shutil signal site
        smtpd smtplib sndhdr socket socketserver spwd sqlite3 sre_compile sre_constants sre_parse ssl stat statistics
        stringprep struct subprocess sunau symtable sys sysconfig syslog tabnanny tarfile telnetlib tempfile termios textwrap
        this threading timeit tkinter token tokenize tomllib trace traceback tracemalloc tty turtle turtledemo unicodedata
        unittest urllib urllib2 urlparse uu venv warnings wave weakref webbrowser winreg winsound wsgiref xdrlib xml xmlrpc
        zipapp zipfile zipimport zlib
        """);

    /// <summary>Builtins that are values or make them.</summary>
    private static readonly HashSet<string> Builtins = Words(
        "bool bytearray bytes complex dict float frozenset int list long object range set slice str tuple type unicode NoneType Ellipsis");

    /// <summary>Other modules whose business is running, building or fetching something.</summary>
    private static readonly HashSet<string> Acting = Words(
        """
        cloudpickle dill joblib numba pip pkg_resources psutil requests setuptools sh torch.classes torch.compiler torch.hub torch.jit
        torch.multiprocessing torch.ops torch.package torch.testing torch.utils.cpp_extension torch._dynamo
        torch._inductor numpy.distutils numpy.f2py numpy.lib numpy.testing
        """);

    /// <summary>Names of functions that read, write or call something, wherever they stand.</summary>
    private static readonly HashSet<string> Functions = Words(
        """
        apply call compile delattr eval exec execfile fromfile fromregex genfromtxt getattr import_module input load loads loadtxt memmap
        open popen run runstring save savetxt savez setattr spawn system tofile vectorize __import__
        """);

    /// <summary>What a name may not lead through, such as the module that another module imported.</summary>
    private static readonly HashSet<string> Reaching = Words(
        "builtins ctypes importlib marshal nt os pickle posix pty runpy shutil socket subprocess sys __builtin__ __builtins__ __globals__ __subclasses__");

    /// <summary>Whether a name is one whose objects are taken for inert ones.</summary>
    public static bool Inert(PickleName name)
    {
        string[] modules = name.Module.Split('.'), names = name.Name.Split('.');
        if (name.Module is "builtins" or "__builtin__")
        {
            return Builtins.Contains(name.Name);
        }

        if (modules[0].StartsWith('_') && name is not ({ Module: "_codecs", Name: "encode" } or { Module: "__main__" }))
        {
            return false;
        }

        // A module that belongs to an acting one: torch.hub, torch.jit.frontend.
        bool acting = Enumerable.Range(1, modules.Length).Any(parts => Acting.Contains(string.Join('.', modules[..parts])));
        return !acting && !Library.Contains(modules[0]) && !modules.Concat(names).Any(Reaching.Contains) && !Functions.Contains(names[^1]);
    }

    private static HashSet<string> Words(string words) =>
        new(words.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries), StringComparer.Ordinal);
}
