"""What the page promises, each tried in a real browser against a real coordinator and a real job."""

from reading import problems

LIVE = "document.querySelector('#link').dataset.state === 'live'"
STEP = "Number([...document.querySelectorAll('.figures dt')].find((one) => one.textContent === 'Steps')?.nextSibling.textContent.replaceAll(',', ''))"


class Failure(Exception):
    """The page broke a promise."""


def expect(holds, what):
    if not holds:
        raise Failure(what)


def shown(css):
    """An expression: whether an element is there and visible."""
    return f"(() => {{ const one = document.querySelector({css!r}); return Boolean(one && one.checkVisibility()); }})()"


def settled(browser):
    """Waits until a view shows what it is there for."""
    there = "document.querySelector('.devices li, .tab .chart, .tab .heat, .tab .matrix, .tab .track, .tab .line, .tab pre')"
    browser.until(f"{LIVE} && {there}?.checkVisibility()", 30, "a view with something in it")


def opens(browser, cluster, job):
    """The page opens, paints without data, then shows workers, devices and the job; nothing comes from elsewhere."""
    browser.open(cluster.server)
    browser.until(LIVE, 15)
    browser.until("document.querySelectorAll('table[aria-label=Workers] tbody tr').length === 2", 15, "two workers")
    words = browser.words()
    expect("worker-1" in words and job in words, f"worker-1 and {job} are not on the page:\n{words}")
    browser.until(f"document.querySelector('.devices li[data-busy=yes]')?.textContent.includes({job!r})", 15, "a device in use")
    foreign = browser.value("performance.getEntriesByType('resource').map((one) => one.name).filter((name) => !name.startsWith(location.origin))")
    expect(foreign == [], f"loaded from elsewhere: {foreign}")
    policy = browser.run("return fetch('/').then((answer) => answer.headers.get('content-security-policy'));")
    expect(policy and "default-src 'self'" in policy, f"the policy is {policy}")


def streams(browser, cluster, job):
    """A job's loss arrives while it trains: steps rise and every task has a line, without a reload."""
    browser.open(f"{cluster.server}/#/jobs/{job}")
    browser.until(f"{STEP} > 0", 30, "a first step")
    begin = browser.value(STEP)
    browser.until(f"{STEP} > {begin}", 30, "further steps")
    browser.until("document.querySelectorAll('.chart:has(.tall) .key').length === 2", 15, "a line for each task")
    points = "import('/main.js').then(({ open }) => open().state.series.base.get('loss/digit').size)"
    before = browser.run(f"return {points};")
    browser.until(f"({points}).then((size) => size > {before})", 30, "more points of the loss")
    browser.until("[...document.querySelectorAll('.chart h3')].some((one) => /accuracy, validation/.test(one.textContent))", 60, "a chart of accuracies")
    drawn = browser.run("""const canvas = document.querySelector('.plot.tall canvas');
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        let coloured = 0;
        for (let at = 0; at < data.length; at += 4) {
          const [r, g, b, a] = data.subarray(at, at + 4);
          if (a > 100 && Math.max(r, g, b) - Math.min(r, g, b) > 40) coloured += 1;
        }
        return coloured;""")
    expect(drawn > 100, f"the chart has only {drawn} coloured pixels")


def views(browser, cluster, job):
    """Affinity, plan, timeline, logs and job file show what the coordinator knows of the job."""
    base = f"{cluster.server}/#/jobs/{job}"
    browser.open(f"{base}/affinity")
    browser.until("document.querySelectorAll('.heat td[data-sign]').length === 2", 60, "a map of two tasks")
    expect(browser.value("document.querySelectorAll('.findings li').length") > 0, "no finding is said")
    browser.open(f"{base}/plan")
    browser.until("document.querySelectorAll('.matrix tbody tr').length === 2", 15, "two ranks")
    expect(browser.value("document.querySelectorAll('.slices i').length") > 0, "no owner of a block is shown")
    browser.open(f"{base}/timeline")
    browser.until("document.querySelectorAll('.track i').length > 1", 15, "states over time")
    browser.open(f"{base}/logs")
    browser.until("document.querySelectorAll('.line').length > 0", 30, "a log line")
    rows = browser.value("document.querySelectorAll('.line').length")
    expect(rows < 200, f"{rows} rows are in the page: the list is not virtual")
    browser.open(f"{base}/spec")
    browser.until("document.querySelector('pre.code')?.textContent.includes('upgrad')", 15, "the job file")


def restart(browser, cluster, job):
    """The coordinator is killed: the page says so, and goes on by itself when it is back, without a reload."""
    browser.open(f"{cluster.server}/#/jobs/{job}")
    browser.until(f"{STEP} > 0 && {LIVE}", 30)
    browser.run("window.untouched = true;")
    begin = browser.value(STEP)
    cluster.kill("coordinator")
    browser.until("document.querySelector('#link').dataset.state === 'broken'", 15, "that the page says the connection is lost")
    browser.until(LIVE, 60, "the connection again")
    browser.until(f"{STEP} > {begin}", 90, "further steps after the restart")
    expect(browser.value("window.untouched === true"), "the page was loaded anew")
    browser.complaints()


def recovery(browser, cluster, job):
    """A worker is killed: the recovery appears in the timeline with its phases, and as a mark in the charts."""
    before = len(cluster.job(job).get("recoveries", []))
    browser.open(f"{cluster.server}/#/jobs/{job}/timeline")
    browser.until("document.querySelector('.track')", 15)
    cluster.kill("worker-2")
    browser.until(f"document.querySelectorAll('.recoveries li').length > {before}", 90, "a recovery")
    browser.until("document.querySelectorAll('.recoveries li:first-child .phases i').length >= 3", 90, "the phases of the recovery")
    words = browser.value("document.querySelector('.recoveries li').textContent")
    expect("worker-2" in words, f"the recovery does not name worker-2: {words}")
    browser.open(f"{cluster.server}/#/jobs/{job}")
    marks = "import('/main.js').then(({ open }) => open().tab.charts?.get('loss')?.events().length ?? 0)"
    browser.until(f"({marks}).then((count) => count > {before})", 15, "a mark in the charts")


def viewer(browser, guarded, job):
    """Who may only look logs in, sees no button, and is refused where the page is sidestepped; an admin has buttons."""
    browser.open(guarded.server)
    browser.until(shown("#log-in"), 15, "the question who calls")
    browser.until("document.querySelector('#link-text').textContent === 'Not logged in'", 15, "that a page that sees nothing does not call itself live")
    browser.type("#token", "not-a-token")
    browser.click("#log-in button")
    browser.until("document.querySelector('#log-in-wrong').textContent !== ''", 15, "a refusal of a wrong token")
    browser.run("document.querySelector('#token').value = '';")
    browser.type("#token", guarded.tokens["viewer"])
    browser.click("#log-in button")
    browser.until(f"!document.querySelector('#log-in').open && document.body.innerText.includes({job!r})", 15, "the cluster after the log-in")
    expect("viewer" in browser.words(), "the page does not say who is logged in")
    browser.open(f"{guarded.server}/#/jobs/{job}")
    browser.until(f"document.querySelector('h1')?.textContent === {job!r} && document.querySelector('.badge').textContent.includes('queued')", 15)
    seen = browser.value("[...document.querySelectorAll('[data-call]')].filter((one) => one.checkVisibility()).map((one) => one.dataset.call)")
    expect(seen == [], f"a viewer sees {seen}")
    forged = browser.run("""return fetch('/api/JobService/CancelJob', { method: 'POST', headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ name: arguments[0] }) }).then(async (answer) => [answer.status, (await answer.json()).error.code]);""", job)
    expect(forged == [403, "PERMISSION_DENIED"], f"a forged call was answered with {forged}")
    cookie = browser.value("document.cookie")
    expect("espalier_session" not in cookie, "a script can read the session's cookie")
    browser.complaints()

    browser.click("#leave")
    browser.until(shown("#log-in"), 15, "the question who calls, after logging out")
    browser.type("#token", guarded.tokens["admin"])
    browser.click("#log-in button")
    browser.until(shown("[data-call=CancelJob]"), 15, "the buttons of an admin")
    browser.click("[data-call=CancelJob]")
    browser.until(shown("#ask"), 5, "a question before what can't be undone")
    browser.click("#ask-yes")
    browser.until("document.querySelector('.badge').textContent.includes('cancelled')", 15, "the end of the job")
    state = guarded.call("JobService/GetJob", {"name": job})["state"]
    expect(state == "CANCELLED", f"the job is {state}")
    browser.complaints()


def phone(browser, cluster, job):
    """On a phone nothing sticks out, and what is to be touched is large enough."""
    browser.phone()
    try:
        for path in ["", f"#/jobs/{job}", f"#/jobs/{job}/affinity", f"#/jobs/{job}/plan", f"#/jobs/{job}/timeline", f"#/jobs/{job}/logs"]:
            browser.open("about:blank")
            browser.open(f"{cluster.server}/{path}")
            settled(browser)
            wide = browser.value("document.documentElement.scrollWidth - window.innerWidth")
            expect(wide <= 0, f"{path or 'the overview'} is {wide} pixels too wide")
            small = browser.value("[...document.querySelectorAll('main button')].filter((one) => one.checkVisibility() && one.getBoundingClientRect().height < 30).map((one) => one.textContent)")
            expect(small == [], f"too small to touch: {small}")
    finally:
        browser.desk()


def dark(browser, cluster, job):
    """Dark and light follow the system and the button, and text is legible in both (WCAG AA), in every view."""
    for scheme in ("light", "dark"):
        browser.scheme(scheme)
        for path in ["", f"#/jobs/{job}", f"#/jobs/{job}/affinity", f"#/jobs/{job}/plan", f"#/jobs/{job}/timeline", f"#/jobs/{job}/logs", f"#/jobs/{job}/spec"]:
            browser.open("about:blank")
            browser.open(f"{cluster.server}/{path}")
            settled(browser)
            found = problems(browser)
            expect(found == [], f"{path or 'the overview'}, {scheme}: {found}")
    back = "getComputedStyle(document.documentElement).backgroundColor"
    was = browser.value(back)
    browser.click("#theme")
    expect(browser.value(back) != was, "the button does not change a dark page to light")
    browser.run("localStorage.clear();")
    browser.scheme("light")
    browser.open(cluster.server)


def keyboard(browser, cluster, job):
    """Everything is reached and done by keys alone, and it is always visible where one is."""
    browser.open("about:blank")
    browser.open(cluster.server)
    browser.until(f"{LIVE} && document.querySelector('table[aria-label=Jobs] a')", 20)
    browser.keys("Tab")
    expect(browser.value("document.activeElement.className") == "skip", "the first stop is not the way to the content")
    browser.keys("Enter")
    expect(browser.value("document.activeElement.id") == "main", "it does not lead to the content")
    reach(browser, f"document.activeElement.textContent === {job!r}", "the job's link")
    expect(browser.value("getComputedStyle(document.activeElement).outlineStyle") == "solid", "the focus can't be seen")
    browser.keys("Enter")
    browser.until(f"document.querySelector('h1')?.textContent === {job!r}", 15)
    browser.until(shown(".plot.tall"), 30)
    browser.until("import('/main.js').then(({ open }) => open().tab.steps.last > 50)", 60, "steps to zoom into")
    reach(browser, "document.activeElement.classList.contains('tall')", "the chart")
    steps = "import('/main.js').then(({ open }) => open().tab.steps.range)"
    first = browser.run(f"return {steps};")
    browser.keys("+", "+")
    second = browser.run(f"return {steps};")
    expect(second[1] - second[0] < first[1] - first[0], f"+ does not zoom: {first} to {second}")
    browser.keys("Left")
    third = browser.run(f"return {steps};")
    expect(third[0] < second[0], f"the left arrow does not move: {second} to {third}")
    browser.keys(",")
    browser.until("/^Step \\d+: digit/.test(document.querySelector('#polite').textContent)", 5, "the values said to a screen reader")
    browser.keys("Home")
    expect(browser.run(f"return {steps};")[0] == 0, "Home does not show all steps")
    browser.open(f"{cluster.server}/#/jobs/{job}/affinity")
    browser.until("document.querySelectorAll('.heat td[data-sign]').length === 2", 30, "a map of two tasks")
    reach(browser, "document.activeElement.matches('.heat td')", "the map")
    at = "[document.activeElement.parentElement.rowIndex, document.activeElement.cellIndex]"
    expect(browser.value(at) == [1, 2], f"the map is entered at {browser.value(at)}")
    browser.keys("Down")
    expect(browser.value(at) == [1, 2], "the down arrow leads onto the diagonal or out of the map")
    browser.keys("Tab")
    expect(browser.value("!document.activeElement.matches('.heat td')"), "the map has more than one stop for Tab")


def reach(browser, there, what, most=40):
    for _ in range(most):
        browser.keys("Tab")
        if browser.value(there):
            return
    raise Failure(f"{what} is not reached by {most} presses of Tab")

