"""Names and words that programs may take for more than words: markup, escapes, directions of writing, code."""

TAKEN = '"><script>document.title="taken"</script><img src=x onerror=document.title="taken">'
"""HTML."""

PIECES = (
    TAKEN,
    "'; alert(1); //",
    "{{ 7 * 7 }}{% raw %}",
    "[red]red[/red][/nothing][link=x]",
    "\x1b[31m\x1b]0;taken\x07",
    "\u202egnp.txt",
    "two\nlines\r\n# heading",
    "**bold** `code` ![x](x) | cell | <b>",
    '"); import os; os.abort(); ("',
    "&lt;&amp;",
)

HOSTILE = "".join(PIECES)

HOSTILE_NAME = "".join(piece[:20].replace("/", "∕") for piece in PIECES)
"""As a file may be called: 255 bytes at most."""

assert len(HOSTILE_NAME.encode()) < 220
