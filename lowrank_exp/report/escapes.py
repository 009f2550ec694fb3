"""Text as Markdown and LaTeX show it: none of its characters is markup."""

import re

LATEX = str.maketrans(
    {
        **{"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}"},
        **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
        **{character: f"\\{character}" for character in "&%$#_"},
        **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
        **{character: f"{{{character}}}" for character in "[]*"},  # behind \\ or \item they would be arguments
        **{"±": r"$\pm$", "−": "$-$", "Δ": r"$\Delta$", "≈": r"$\approx$"},
    }
)
# Not an underscore within a word; of an address what would make a link of it.
_MARKDOWN = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.")


def latex_escaped(text: str) -> str:
    r"""`text` with the characters that LaTeX reads as commands made visible.

    >>> print(latex_escaped("svd_energy 50 % ± 1 -2"))
    svd\_energy 50 \% $\pm$ 1 $-$2
    """
    return re.sub(r"(?<!\w)-(?=\d)", "−", text).translate(LATEX)


def markdown_escaped(text: str) -> str:
    r"""`text` with the characters that Markdown and HTML read as markup made visible.

    >>> print(markdown_escaped("a_row [click](http://u) <b> `x` & &lt;"))
    a_row \[click\](http\://u) &lt;b> \`x\` & &amp;lt;
    """
    text = _MARKDOWN.sub(r"\\\g<0>", text)
    return re.sub(r"&(?=[#\w])", "&amp;", text).replace("<", "&lt;")


def markdown_item(text: str) -> str:
    r"""`text` as an item of a list, which begins no list, heading or quotation of its own.

    >>> print(markdown_item("# a"), markdown_item("12. b"))
    - \# a - 12\. b
    """
    return "- " + re.sub(r"^(\d*)([#>+=.)-])", r"\1\\\2", markdown_escaped(text))
