"""How an answer's Markdown is shown."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from .test_prompt import ask
from .test_windows import window

ANSWER = """# Plan
1. First

2. Second
  - nested *one*
  - nested two

   ```sh
   echo hello

     indented
   ```

3. Third

~~~
between
~~~

4. Fourth

| name | value |
|:--|--:|
| `a` | 1 \\| 2 |
| only one |

> quoted
> twice

---
a | b is no table, 2 * 3 * 4 is not slanted
- [ ] to do
1986. was a year
```py
unfinished"""


def test_lists_tables_and_code_keep_their_shape(desk: Page) -> None:
    prompt = window(desk, "prompt")
    if prompt.get_by_role("button", name="Clear").count():
        prompt.get_by_role("button", name="Clear").click()
    ask(desk, f"this\n\n{ANSWER}")
    answer = prompt.get_by_role("article", name="Agent")
    expect(answer).to_have_class("said assistant done")
    expect(answer.locator(".heading")).to_have_text("Plan")
    lists = answer.locator("ol:not(li ol)").evaluate_all("all => all.map(each => [each.start, each.children.length])")
    assert lists == [[1, 3], [4, 1], [1986, 1]]
    nested = answer.locator("ol > li:nth-child(2)").first
    expect(nested.locator("ul > li")).to_have_text(["nested one", "nested two"])
    expect(nested.locator("em")).to_have_text("one")
    assert answer.locator("pre").all_inner_texts() == ["echo hello\n\n  indented", "between", "unfinished "]
    assert answer.locator("tr").evaluate_all("all => all.map(row => [...row.cells].map(cell => cell.textContent))") == [
        ["name", "value"],
        ["a", "1 | 2"],
        ["only one", ""],
    ]
    expect(answer.locator("blockquote")).to_have_text("quoted\ntwice")
    expect(answer.locator("hr")).to_have_count(1)
    expect(answer.locator("p", has_text="is no table")).to_have_text("a | b is no table, 2 * 3 * 4 is not slanted")
    prompt.get_by_role("button", name="Clear").click()
