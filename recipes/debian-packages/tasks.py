"""The five tasks: which label a package has in each, from its Section and its debtags facets."""

SECTIONS = {
    "databases": ["database"],
    "desktop": ["x11", "gnome", "kde", "xfce", "gnustep"],
    "documentation": ["doc"],
    "fonts": ["fonts"],
    "functional languages": ["haskell", "ocaml", "lisp"],
    "games": ["games"],
    "go": ["golang"],
    "graphics": ["graphics"],
    "java": ["java"],
    "libraries": ["libs", "libdevel"],
    "network and mail": ["net", "comm", "mail", "news"],
    "perl": ["perl"],
    "programming tools": ["devel", "vcs", "interpreters", "embedded"],
    "python": ["python", "zope"],
    "r": ["gnu-r"],
    "ruby": ["ruby"],
    "rust": ["rust"],
    "science": ["science", "math", "electronics", "hamradio", "education"],
    "sound and video": ["sound", "video"],
    "system administration": ["admin", "kernel", "shells"],
    "text and typesetting": ["text", "editors", "tex", "localization"],
    "utilities": ["utils"],
    "web": ["web", "httpd", "php", "javascript"],
}

ROLE = {
    "application data": ["app-data"],
    "data": ["data"],
    "development files": ["devel-lib"],
    "documentation": ["documentation"],
    "metapackage": ["metapackage"],
    "plugin": ["plugin"],
    "program": ["program"],
    "shared library": ["shared-lib"],
}

LANGUAGE = {
    "C": ["c"],
    "C++": ["c++"],
    "Java": ["java"],
    "Lisp": ["lisp"],
    "OCaml": ["ocaml"],
    "Perl": ["perl"],
    "Python": ["python"],
    "R": ["r"],
    "shell": ["shell"],
}

INTERFACE = {
    "command line": ["commandline"],
    "daemon": ["daemon"],
    "full-screen text": ["text-mode"],
    "graphical": ["x11", "graphical", "3d"],
    "web": ["web"],
}

WORKS_WITH = {
    "archives": ["archive"],
    "databases": ["db"],
    "dictionaries": ["dictionary"],
    "files": ["file"],
    "fonts": ["font"],
    "images": ["image", "image:raster", "image:vector"],
    "log files": ["logfile"],
    "mail": ["mail"],
    "network traffic": ["network-traffic"],
    "people and dates": ["pim", "people", "calendar"],
    "running programs": ["software:running"],
    "software packages": ["software:package"],
    "sound": ["audio", "music-notation"],
    "source code": ["software:source", "vcs", "bugs"],
    "text": ["text", "unicode"],
    "video": ["video"],
}


def _by_value(classes):
    return {value: name for name, values in classes.items() for value in values}


# name -> (facet, {value: class}, several labels at once?)
TASKS = {
    "section": ("section", _by_value(SECTIONS), False),
    "role": ("role", _by_value(ROLE), False),
    "language": ("implemented-in", _by_value(LANGUAGE), False),
    "interface": ("interface", _by_value(INTERFACE), False),
    "works-with": ("works-with", _by_value(WORKS_WITH), True),
}


def facets(package):
    """{facet: set of values} of one stanza of the index; its section is a facet like the others."""
    found = {"section": {package.get("Section", "").split("/")[-1]}}
    for tag in package.get("Tag", "").split(","):
        facet, _, value = tag.strip().partition("::")
        # "TODO" is how a debtags editor says that he doesn't know yet.
        if value and value != "TODO":
            found.setdefault(facet, set()).add(value)
    return found


def label(task, found):
    """The label of a package in a task, or None where it has none or no single one."""
    facet, names, several = TASKS[task]
    values = found.get(facet, set())
    if several:
        return sorted({names[value] for value in values if value in names}) or None
    # A value outside the classes makes the package ambiguous, not a member of the class it also has.
    classes = {names.get(value) for value in values}
    return classes.pop() if len(classes) == 1 else None
