"""The two HTML pages of the puzzle; all values are escaped."""

from collections.abc import Iterable
from html import escape
from string import Template
from urllib.parse import quote

_PAGE = Template(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; }
body { font: 1.05rem/1.55 system-ui, sans-serif; max-width: 42rem; margin: 2rem auto;
       padding: 0 1rem; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
pre { overflow-x: auto; padding: .8rem; border: 1px solid; border-radius: .4rem; }
img { width: 200px; height: 100px; margin: 0 .4rem .4rem 0; image-rendering: pixelated; }
</style>
</head>
<body>
<h1>$title</h1>
$body
</body>
</html>
"""
)

_USER_BODY = Template(
    """<p>Hello $user. Every image contains $length characters of <code>a-z</code> and
<code>0-9</code>. Train a machine to read them.</p>
<p><img src="random_image" alt="a captcha"><img src="random_image?2" alt="another captcha"></p>
<h2>The images</h2>
<ul>
<li><a href="challenge"><code>GET challenge</code></a> returns $batch_size new images each
time: <code>{"images": [{"name": "…", "jpg_base64": "…"}, …]}</code></li>
<li><a href="random_image"><code>GET random_image</code></a> returns one image, as a JPEG.</li>
<li><code>GET image/NAME</code> returns the image with that name, as a JPEG.</li>
</ul>
<h2>Your answers</h2>
<p><code>POST solution</code> accepts at most $most_solutions answers in one request. You get the
passcode for right answers to $needed different images.</p>
<pre>{"solutions": [{"name": "…", "solution": "a1b2"}, …]}</pre>
"""
)


def user_page(user: str, *, length: int, batch_size: int, needed: int, most_solutions: int) -> str:
    """The puzzle page of one user; the name may be any string."""
    body = _USER_BODY.substitute(
        user=escape(user),
        length=length,
        batch_size=f"{batch_size:,}",
        needed=f"{needed:,}",
        most_solutions=f"{most_solutions:,}",
    )
    return _PAGE.substitute(title="The captcha puzzle", body=body)


def front_page(users: Iterable[str] | None) -> str:
    """The start page with links to the users; ``users`` is None if any name is allowed."""
    if users is None:
        body = "<p>Choose a name. Your puzzle is at <code>/u/NAME/</code>.</p>"
    else:
        links = "".join(
            f'<li><a href="u/{quote(user, safe="")}/">{escape(user)}</a></li>'
            for user in sorted(users)
        )
        body = f"<p>Choose a user:</p><ul>{links}</ul>"
    return _PAGE.substitute(title="The captcha puzzle", body=body)
