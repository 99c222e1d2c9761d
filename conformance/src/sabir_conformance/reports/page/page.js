'use strict'
// The whole report is in #data. Text of ports reaches the page as text nodes only, never as markup.
const data = JSON.parse(document.getElementById('data').textContent)
const $ = (id) => document.getElementById(id)

/** An element: el('a', {href: '#x', class: 'y'}, 'text', other element, …). */
function el(name, attributes, ...children) {
  const made = document.createElement(name)
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === true) made.setAttribute(key, '')
    else if (value !== false && value != null) made.setAttribute(key, value)
  }
  made.append(...children.flat().filter((child) => child != null && child !== ''))
  return made
}

const KIND = { pass: 'pass', fail: 'fail', 'known-fail': 'warn', 'stale-known-fail': 'fail', unsupported: 'mute', 'not-run': 'odd', 'harness-error': 'odd' }
const SIGN = { pass: '✓', fail: '✗', warn: '!', mute: '–', odd: '?' }
const WORST = ['harness-error', 'fail', 'stale-known-fail', 'not-run', 'known-fail', 'unsupported', 'pass']
const green = new Set(data.green)
const summary = data.summary
const drivers = Object.keys(summary.drivers)
const isPair = (driver) => driver.includes(data.arrow)
const pairs = summary.grid.map(([client, server]) => client + data.arrow + server)

const cases = new Map(data.cases.map((one) => [one.id, { ...one, results: [] }]))
for (const result of data.results) cases.get(result.case).results.push(result)
const rules = new Map(data.requirements.map((rule) => [rule.id, rule]))
const worst = (results) => WORST.find((verdict) => results.some((result) => result.verdict === verdict))

function badge(verdict, note = '') {
  const kind = KIND[verdict]
  return el('span', { class: `badge ${kind}` }, `${SIGN[kind]} ${verdict}${note}`)
}
const caseLink = (id, ...content) => el('a', { href: '#' + id, class: content.length ? null : 'mono' }, ...(content.length ? content : [id]))
/** The specification's inline Markdown: **strong**, *emphasis*, `code` and [text](where). */
function prose(text) {
  return text.split(/(\*\*[^*]+\*\*|\[[^\]]+\]\([^)]*\)|`[^`]+`|\*[^*]+\*)/).map((part) => {
    if (/^\*\*.+\*\*$/.test(part)) return el('strong', {}, part.slice(2, -2))
    if (/^`.+`$/.test(part)) return el('code', {}, part.slice(1, -1))
    if (/^\[.+\)$/.test(part)) return el('span', {}, prose(part.slice(1, part.indexOf(']('))))
    if (/^\*.+\*$/.test(part)) return el('em', {}, part.slice(1, -1))
    return part
  })
}
const ruleLink = (id) => el('a', { href: '#' + id, title: rules.get(id)?.text ?? '' }, id.replace('SABIR-', ''))

// ---- the head ------------------------------------------------------------------------------------------------------

document.title = `${summary.green ? 'passed' : 'FAILED'} · Sabir conformance`
$('outcome').append(el('span', { class: `badge ${summary.green ? 'pass' : 'fail'}` }, summary.green ? '✓ passed' : '✗ failed'))
$('sums').append(data.sums)
const facts = [
  ['Redis', `${summary.redis}${summary.redis_from ? `, ${summary.redis_from}` : ''}`],
  ['suite', summary.suite],
  ['profile', summary.profile + (summary.partial ? ', some of the cases' : '')],
  ['seed', String(summary.seed)],
  ['began', summary.began.replace('T', ' ').replace('+00:00', ' UTC')],
  ['took', `${summary.seconds} s`],
  ...drivers.map((name) => {
    const port = summary.drivers[name]
    return [name, [port.port, port.version, port.language && `(${port.language})`].filter(Boolean).join(' ') || 'did not say hello']
  }),
]
$('facts').append(...facts.map(([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value))))

// ---- grid and areas ------------------------------------------------------------------------------------------------

function score(passed, total, bad, choose, label) {
  const link = el('a', { href: '#cases', class: bad ? 'fail' : passed === total ? 'pass' : 'mute', 'aria-label': `${label}: ${passed} of ${total} passed` }, `${passed}/${total}`)
  link.addEventListener('click', () => { setFilters(choose) })
  return link
}

function buildGrid() {
  const clients = [...new Set(summary.grid.map(([client]) => client))]
  const servers = [...new Set(summary.grid.map(([, server]) => server))]
  if (!clients.length) return $('grid-table').append(el('p', { class: 'empty' }, 'No pair was run.'))
  const cell = new Map(summary.grid.map(([client, server, passed, total]) => [client + data.arrow + server, [passed, total]]))
  $('grid-table').append(el('table', {},
    el('thead', {}, el('tr', {}, el('th', {}, 'client ↓  server →'), servers.map((name) => el('th', { scope: 'col' }, name)))),
    el('tbody', {}, clients.map((client) => el('tr', {}, el('th', { scope: 'row' }, client), servers.map((server) => {
      const pair = client + data.arrow + server
      const [passed, total] = cell.get(pair) ?? [0, 0]
      return el('td', {}, total ? score(passed, total, passed < total, { driver: pair }, `${client} calls ${server}`) : '–')
    })))),
  ))
}

function buildAreas() {
  const areas = [...new Set(data.cases.filter((one) => one.role !== 'cross').map((one) => one.area))].sort()
  const shown = drivers.filter((name) => summary.drivers[name].total)
  if (!areas.length) return $('areas-table').append(el('p', { class: 'empty' }, 'No port was run alone.'))
  const bad = new Set(data.results.filter((result) => !green.has(result.verdict)).map((result) => `${cases.get(result.case).area} ${result.driver}`))
  const cell = (area, name) => {
    const [passed, total] = summary.drivers[name].areas[area] ?? [0, 0]
    return el('td', { class: 'n' }, total ? score(passed, total, bad.has(`${area} ${name}`), { area, driver: name }, `${name}, ${area}`) : '–')
  }
  for (const group of new Set(areas.map((area) => area.split('/')[0]))) {
    $('areas-table').append(el('table', {},
      el('thead', {}, el('tr', {}, el('th', { scope: 'col' }, group), shown.map((name) => el('th', { scope: 'col', class: 'n' }, name)))),
      el('tbody', {}, areas.filter((area) => area.split('/')[0] === group).map((area) => el('tr', {},
        el('th', { scope: 'row' }, area.split('/').slice(1).join('/') || area), shown.map((name) => cell(area, name)))))))
  }
}

// ---- the cases and their filter ------------------------------------------------------------------------------------

const rows = []

function buildCases() {
  const shown = drivers.filter((name) => summary.drivers[name].total)
  const columns = [...shown, ...(pairs.length ? ['pairs'] : [])]
  const body = el('tbody')
  for (const one of cases.values()) {
    const cells = columns.map((column) => {
      const results = one.results.filter((result) => (column === 'pairs' ? isPair(result.driver) : result.driver === column))
      if (!results.length) return el('td', { class: 'mute' })
      const verdict = worst(results)
      const same = results.filter((result) => result.verdict === verdict).length
      return el('td', {}, badge(verdict, results.length > 1 ? ` ${same}/${results.length}` : ''))
    })
    const reason = one.results.find((result) => !green.has(result.verdict))?.reason
    const row = el('tr', {},
      el('td', {}, caseLink(one.id)),
      el('td', { class: 'title' }, one.title, reason ? el('small', {}, reason.length > 160 ? reason.slice(0, 159) + '…' : reason) : null),
      el('td', { class: 'rules' }, one.rules.flatMap((id) => [ruleLink(id), ' '])),
      cells)
    body.append(row)
    const text = [one.id, one.title, ...one.rules, ...one.results.map((result) => result.reason)].join('\n').toLowerCase()
    rows.push({ row, one, text })
  }
  $('cases-table').append(el('table', {},
    el('thead', {}, el('tr', {}, ['case', 'title', 'rules', ...columns].map((name) => el('th', { scope: 'col' }, name)))), body))

  const option = (value, text = value) => el('option', { value }, text)
  $('verdict').append(option('', 'all'), option('not green'), ...data.verdicts.filter((v) => summary.verdicts[v]).map((v) => option(v, `${v} (${summary.verdicts[v]})`)))
  $('driver').append(option('', 'all'), el('optgroup', { label: 'ports' }, shown.map((name) => option(name))))
  if (pairs.length) $('driver').append(el('optgroup', { label: 'pairs' }, pairs.map((name) => option(name))))
  $('area').append(option('', 'all'), ...[...new Set(data.cases.map((one) => one.area))].sort().map((name) => option(name)))
}

function filter() {
  const words = $('text').value.toLowerCase().split(/\s+/).filter(Boolean)
  const [verdict, driver, area] = [$('verdict').value, $('driver').value, $('area').value]
  let seen = 0
  for (const { row, one, text } of rows) {
    const fits = words.every((word) => text.includes(word)) && (!area || one.area === area) && one.results.some((result) =>
      (!driver || result.driver === driver) && (!verdict || (verdict === 'not green' ? !green.has(result.verdict) : result.verdict === verdict)))
    row.hidden = !fits
    seen += fits
  }
  $('count').textContent = `${seen} of ${rows.length} cases`
}

function setFilters({ text = '', verdict = '', driver = '', area = '' }) {
  $('text').value = text
  $('verdict').value = verdict
  $('driver').value = driver
  $('area').value = area
  filter()
}

// ---- requirements and mutants --------------------------------------------------------------------------------------

function buildRules() {
  const kind = { proven: 'pass', covered: 'mute', uncovered: 'fail', excluded: 'warn' }
  $('coverage').append(Object.entries(summary.requirements).map(([state, number]) => `${number} ${state}`).join(' · '))
  $('rules-table').append(el('table', {},
    el('thead', {}, el('tr', {}, ['rule', 'text', 'state', 'cases'].map((name) => el('th', { scope: 'col' }, name)))),
    el('tbody', {}, data.requirements.map((rule) => {
      const results = rule.cases.flatMap((id) => cases.get(id)?.results ?? [])
      const bad = results.filter((result) => !green.has(result.verdict)).length
      const list = el('div', { class: 'chips' })
      const count = `${rule.cases.length} ${rule.cases.length === 1 ? 'case' : 'cases'}` + (bad ? `, ${bad} not green` : '')
      const details = el('details', {}, el('summary', { class: bad ? 'fail' : '' }, count), list)
      details.addEventListener('toggle', () => {
        if (!list.childElementCount) list.append(...rule.cases.map((id) => (cases.has(id) ? caseLink(id) : el('span', { class: 'mute mono' }, id))))
      })
      return el('tr', { id: rule.id }, el('th', { scope: 'row', class: 'mono' }, rule.id), el('td', {}, prose(rule.text), rule.note && rule.state === 'excluded' ? el('p', { class: 'warn' }, rule.note) : null),
        el('td', {}, el('span', { class: `badge ${kind[rule.state]}` }, rule.state)), el('td', {}, rule.cases.length ? details : '–'))
    })),
  ))
}

function buildMutants() {
  const found = data.mutants
  if (!found) return
  $('mutants').hidden = $('to-mutants').hidden = false
  const link = (id) => (cases.has(id) ? caseLink(id) : el('span', { class: 'mono' }, id))
  const killed = found.mutants.filter((mutant) => mutant.state === 'killed').length
  $('mutants-count').append(`${killed} of ${found.mutants.length} killed`)
  $('mutants-table').append(el('table', {},
    el('thead', {}, el('tr', {}, ['mutant', 'what it breaks', 'rule', 'state', 'the case named for it', 'all that failed'].map((name) => el('th', { scope: 'col' }, name)))),
    el('tbody', {}, found.mutants.map((mutant) => {
      const failed = Object.keys(mutant.failed)
      const good = mutant.state === 'killed'
      return el('tr', {}, el('th', { scope: 'row' }, mutant.mutant.replaceAll('_', ' ')), el('td', {}, mutant.about, good ? null : el('small', { class: 'why' }, mutant.reason)),
        el('td', { class: 'rules' }, ruleLink(mutant.rule)), el('td', {}, el('span', { class: `badge ${good ? 'pass' : 'fail'}` }, good ? '✓ killed' : `✗ ${mutant.state}`)),
        el('td', {}, link(mutant.killed_by)),
        el('td', {}, el('details', {}, el('summary', {}, `${mutant.count} of ${mutant.ran}`), el('ul', { class: 'plain' }, failed.map((id) => el('li', {}, link(id), el('small', { class: 'why' }, mutant.failed[id])))), mutant.count > failed.length ? el('p', { class: 'mute' }, `and ${mutant.count - failed.length} more, in mutants.json`) : null)))
    })),
  ))
  if (found.kill_nothing?.length) {
    $('mutants-table').after(el('details', {}, el('summary', {}, `${found.kill_nothing.length} cases kill no mutant`), el('div', { class: 'chips' }, found.kill_nothing.map(link))))
  }
}

// ---- one case ------------------------------------------------------------------------------------------------------

function wireTable(lines) {
  const lane = (who) => (/^c\d+$/.test(who) ? `c${(Number(who.slice(1)) - 1) % 5}` : '')
  return el('table', { class: 'wire' },
    el('thead', {}, el('tr', {}, el('th', { scope: 'col' }, 'ms'), el('th', { scope: 'col' }, 'who'), el('th', { scope: 'col', 'aria-label': 'direction' }), el('th', { scope: 'col' }, 'command or reply'))),
    el('tbody', {}, lines.map((line) => {
      if (typeof line === 'number') return el('tr', { class: 'gap' }, el('td', { colspan: 4 }, `… ${line} lines are left out here; results.jsonl has them`))
      const [at, who, kind, text] = line
      const classes = [kind === '<' ? 'reply' : kind === '!' ? 'event' : '', /^c\d+$/.test(who) ? '' : 'runner'].join(' ').trim()
      return el('tr', { class: classes || null }, el('td', {}, at.toFixed(1)), el('td', { class: lane(who) }, who), el('td', { class: lane(who) }, kind), el('td', {}, data.texts[text]))
    })))
}

function copyButton(text) {
  const button = el('button', { type: 'button' }, 'Copy')
  button.addEventListener('click', async () => {
    let done = true
    try {
      await navigator.clipboard.writeText(text)
    } catch {
      const area = el('textarea', {})
      area.value = text
      document.body.append(area)
      area.select()
      done = document.execCommand('copy')
      area.remove()
      button.focus()
    }
    button.textContent = done ? 'Copied' : 'Select and copy by hand'
    setTimeout(() => { button.textContent = 'Copy' }, 1500)
  })
  return button
}

function resultDetails(result, open) {
  const details = el('details', { class: 'result', open },
    el('summary', {}, el('strong', {}, result.driver), badge(result.verdict), el('span', { class: 's' }, `${result.s} s`)))
  const fill = () => {
    if (details.childElementCount > 1) return
    if (result.reason) details.append(el('p', { class: `reason ${green.has(result.verdict) ? 'mute' : ''}` }, (result.step && result.step !== 'end' ? `at step ${result.step}: ` : '') + result.reason))
    details.append(el('h3', {}, 'Again'), el('div', { class: 'again' }, el('pre', { class: 'command' }, result.again), copyButton(result.again)))
    if (result.wire.length) details.append(el('h3', {}, 'On the wire'), wireTable(result.wire))
    if (result.talk.length) {
      const said = result.talk.map((line) => (line < 0 ? `… ${-line} lines left out` : data.texts[line])).join('\n')
      details.append(el('h3', {}, 'Driver: in (>) and out (<)'), el('pre', {}, said))
    }
    if (result.stderr.length) details.append(el('h3', {}, 'Driver: last lines of stderr'), el('pre', {}, result.stderr.join('\n')))
  }
  details.addEventListener('toggle', () => { if (details.open) fill() })
  if (open) fill()
  return details
}

function showCase(one) {
  const visible = rows.filter(({ row, one: other }) => !row.hidden || other === one).map(({ one: other }) => other.id)
  const place = visible.indexOf(one.id)
  const step = (id, text) => (id ? caseLink(id, text) : el('span', { class: 'mute' }, text))
  const results = [...one.results].sort((a, b) => WORST.indexOf(a.verdict) - WORST.indexOf(b.verdict))
  const red = results.filter((result) => !green.has(result.verdict))
  const heading = el('h2', { tabindex: '-1' }, one.id)
  $('case').replaceChildren(
    el('header', {}, el('a', { href: '#cases', id: 'back' }, '← All cases'), el('span', { class: 'step' }, step(visible[place - 1], '‹ previous'), el('span', { class: 'mute' }, `${place + 1} of ${visible.length}`), step(visible[place + 1], 'next ›'))),
    heading,
    el('p', { class: 'lead' }, one.title),
    el('p', { class: 'mute' }, `${one.role} · profile ${one.profile}`),
    el('ul', { class: 'plain' }, one.rules.map((id) => el('li', {}, el('a', { href: '#' + id, class: 'mono' }, id), ' ', prose(rules.get(id)?.text ?? '')))),
    el('details', {}, el('summary', {}, 'What the case does'), el('pre', {}, one.does.join('\n'))),
    ...results.map((result, number) => resultDetails(result, red.length ? red.indexOf(result) >= 0 && red.indexOf(result) < 3 : number === 0)),
  )
  $('overview').hidden = true
  $('top').hidden = true
  $('case').hidden = false
  document.title = `${one.id} · Sabir conformance`
  window.scrollTo(0, 0)
  heading.focus({ preventScroll: true })
}

// ---- where we are --------------------------------------------------------------------------------------------------

let from = null // the case that was open
let scrolled = 0

function route() {
  const id = decodeURIComponent(location.hash.slice(1))
  const one = cases.get(id)
  if (one) {
    if ($('case').hidden) scrolled = window.scrollY
    from = id
    showCase(one)
    return
  }
  const wasOpen = !$('case').hidden
  $('case').hidden = true
  $('overview').hidden = false
  $('top').hidden = false
  document.title = `${summary.green ? 'passed' : 'FAILED'} · Sabir conformance`
  if (wasOpen && (id === 'cases' || id === '')) {
    const link = rows.find(({ one: other }) => other.id === from)?.row.querySelector('a')
    window.scrollTo(0, scrolled)
    link?.focus()
  } else if (rules.has(id)) {
    $(id).scrollIntoView({ block: 'center' })
    const details = $(id).querySelector('summary')
    details?.focus({ preventScroll: true })
  } else if (wasOpen && id) {
    $(id)?.scrollIntoView()
  }
}

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)
  if (event.key === '/' && !typing) {
    event.preventDefault()
    if (!$('case').hidden) location.hash = '#cases'
    setTimeout(() => { $('text').focus(); $('text').select() })
  } else if (event.key === 'Escape' && !$('case').hidden) {
    location.hash = '#cases'
  } else if (event.key === 'Escape' && event.target === $('text')) {
    if ($('text').value) { $('text').value = ''; filter() } else $('text').blur()
  } else if (event.key === 'Enter' && event.target === $('text')) {
    event.preventDefault()
    rows.find(({ row }) => !row.hidden)?.row.querySelector('a').focus()
  }
})
for (const kind of ['input', 'change']) $('filters').addEventListener(kind, filter)
$('filters').addEventListener('submit', (event) => event.preventDefault())
$('filters').addEventListener('reset', () => setTimeout(filter))
window.addEventListener('hashchange', route)

buildGrid()
buildAreas()
buildCases()
buildRules()
buildMutants()
if (!summary.green && data.results.some((result) => !green.has(result.verdict))) $('verdict').value = 'not green'
filter()
route()
