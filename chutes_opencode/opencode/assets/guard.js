// Runs inside opencode, as its only plugin: records each model request and its answer in
// guard.jsonl, and answers in the provider's stead where going on would only waste money.
//
// opencode retries whatever looks transient, for minutes and without telling; HTTP 422 with
// neutral words is what it does not retry, so that is how a run is brought to its end. The truth
// (status, headers, body) stands in the record; our verdict reads that, not the 422.
import { appendFileSync, readFileSync } from "node:fs"

const spec = JSON.parse(readFileSync(new URL("./guard.json", import.meta.url), "utf8"))
const log = new URL("./guard.jsonl", import.meta.url)
const BODY_CHARS = 65536
const BODY_MS = 2000
const PATIENCE_S = 5 // a longer Retry-After is left to our own policy, which can be told to wait
const FINISHED = new Set(["stop", "tool_calls", "function_call", "length", "content_filter", "unread"])
const KEPT = /^(retry-after|retry-after-ms|x-request-id|x-chutes-|x-ratelimit-|date$)/

const native = typeof spec.nativeRoot === "string"
const ending = spec.finish && new RegExp(spec.finish.pattern)

const secret = process.env[spec.keyVariable]
// opencode has read its config by now; the shell commands of its agent need not see the key. A server
// reads it anew, and makes this plugin anew, for each folder.
if (!spec.server) delete process.env[spec.keyVariable]
let guarding = false

let requests = 0
let failures = 0
const broken = new Set() // sessions whose last stream ended without a finish reason

function record(entry) {
  const line = JSON.stringify({ time: Date.now() / 1000, ...entry })
  appendFileSync(log, (secret ? line.replaceAll(secret, "[masked]") : line) + "\n")
}

function refuse(id, reason) {
  record({ id, kind: "refused", reason })
  const body = JSON.stringify({ error: { message: `ended by chutes-opencode: ${reason}` } })
  return new Response(body, { status: 422, headers: { "content-type": "application/json" } })
}

async function beginning(response) {
  const reader = response.clone().body?.getReader()
  const decoder = new TextDecoder()
  let text = ""
  const late = new Promise((resolve) => setTimeout(() => resolve({ done: true }), BODY_MS))
  while (reader && text.length < BODY_CHARS) {
    const { done, value } = await Promise.race([reader.read(), late]).catch(() => ({ done: true }))
    if (done) break
    text += decoder.decode(value, { stream: true })
  }
  reader?.cancel().catch(() => {})
  return text.slice(0, BODY_CHARS)
}

// A failure may pass: opencode repeats the step after some seconds. The last one that is allowed, or
// a long wait, is for the policy outside.
function failed(id, retryAfter) {
  failures += 1
  return failures >= spec.maxFailures || retryAfter > PATIENCE_S ? refuse(id, "the provider keeps failing") : null
}

function missingToolServer(tools) {
  return spec.toolPrefixes.find((prefix) => !tools.some((name) => name.startsWith(prefix)))
}

function waitAsked(headers) {
  const milliseconds = Number(headers.get("retry-after-ms") ?? NaN)
  if (milliseconds >= 0) return milliseconds / 1000
  const value = headers.get("retry-after") ?? ""
  const seconds = Number(value || NaN)
  return seconds >= 0 ? seconds : Math.max(0, (Date.parse(value) - Date.now()) / 1000) || 0
}

// Reads a copy of the stream for what the verdict needs: usage, finish reason, served model.
async function follow(id, session, response) {
  const seen = { chars: 0 }
  const take = native ? noticeNative : notice
  const decoder = new TextDecoder()
  let rest = ""
  try {
    for await (const chunk of response.clone().body) {
      const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n")
      rest = lines.pop()
      lines.forEach((line) => take(seen, line))
    }
    take(seen, rest)
  } catch (error) {
    seen.error = `${error.name}: ${error.message}`
  }
  if (native && !ending) seen.finish = "unread"
  if (!FINISHED.has(seen.finish)) broken.add(session)
  record({ id, kind: "end", ...seen })
}

function notice(seen, line) {
  const text = line.startsWith("data:") ? line.slice(5).trim() : line.trim()
  if (!text.startsWith("{")) return
  let chunk
  try {
    chunk = JSON.parse(text)
  } catch {
    seen.error ??= `malformed chunk: ${text.slice(0, 200)}`
    return
  }
  if (chunk.error) seen.error ??= text.slice(0, BODY_CHARS)
  if (chunk.usage) seen.usage = chunk.usage
  if (chunk.model) seen.model = chunk.model
  const choice = chunk.choices?.[0] ?? {}
  if (choice.finish_reason) seen.finish = choice.finish_reason
  for (const value of Object.values(choice.delta ?? {}))
    seen.chars += (typeof value === "string" ? value : JSON.stringify(value) ?? "").length
}

// A native stream is not read but for how it ends; tokens are told by opencode's transcript.
function noticeNative(seen, line) {
  if (!ending) return
  if (line.includes(spec.finish.tool)) seen.tool = true
  const word = line.match(ending)?.[1]
  if (word) seen.finish = spec.finish.words[word] ?? word
  if (word && seen.tool && seen.finish === "stop") seen.finish = "tool_calls"
  if (/^data:\s*\{"(type":\s*"error|error)"/.test(line)) seen.error ??= line.slice(5, BODY_CHARS).trim()
}

// What opencode adds for some model names (temperature, top_p, reasoning_effort, …) and the caller
// did not ask for goes; what the caller adds to a native body comes in.
function asked(body) {
  for (const key of Object.keys(body)) if (spec.bodyKeys?.includes(key) === false) delete body[key]
  return Object.assign(body, spec.extraBody)
}

function toolNames(body) {
  const declared = (tool) => tool.functionDeclarations?.map((each) => each.name)
  const tools = Array.isArray(body.tools) ? body.tools : []
  return tools.flatMap((tool) => tool.function?.name ?? tool.name ?? declared(tool) ?? "")
}

async function exchange(send, init) {
  const id = ++requests
  const headers = new Headers(init?.headers)
  const body = typeof init?.body === "string" ? asked(JSON.parse(init.body)) : {}
  const sent = typeof init?.body === "string" ? JSON.stringify(body) : init?.body
  const tools = toolNames(body)
  const parent = headers.get("x-parent-session-id")
  const session = headers.get("x-session-id")
  record({ id, kind: "request", model: body.model, session, parent, tools, size: sent?.length, native })
  // A sub-agent's end lets its parent go on, but a session of its own must not repeat itself.
  if (broken.has(session)) return refuse(id, "the stream broke off")
  if (id > spec.maxRequests) return refuse(id, "max_requests")
  const blind = native && !ending // the names of its tools could not be found
  const missing = parent || blind ? undefined : missingToolServer(tools)
  if (missing !== undefined) return refuse(id, `tool server ${missing}`)
  let response
  try {
    response = await send(sent)
  } catch (error) {
    record({ id, kind: "response", error: `${error.name}: ${error.message}` })
    const refusal = error.name === "AbortError" ? null : failed(id, 0)
    if (refusal) return refusal
    throw error
  }
  return await judge(id, session, response)
}

async function judge(id, session, response) {
  const type = response.headers.get("content-type") ?? ""
  const streaming = response.ok && isStream(type)
  const kept = Object.fromEntries([...response.headers].filter(([name]) => KEPT.test(name)))
  const text = streaming ? undefined : await beginning(response)
  record({ id, kind: "response", status: response.status, type, headers: kept, body: text })
  if (streaming) {
    failures = 0
    follow(id, session, response)
    return response
  }
  if (response.ok) return refuse(id, "the answer is no event stream")
  return failed(id, waitAsked(response.headers)) ?? response
}

function isStream(type) {
  return native && !ending ? !/json|html/.test(type) : type.includes("text/event-stream")
}

function isModelRequest(url, init) {
  if (native) return url.startsWith(spec.nativeRoot) && init?.method === "POST"
  return url === spec.completionsUrl && typeof init?.body === "string"
}

function guardFetch() {
  const original = globalThis.fetch
  const guarded = async (input, init) => {
    const url = typeof input === "string" ? input : (input.url ?? String(input))
    if (!isModelRequest(url, init)) return await original(input, init)
    return await exchange((body) => original(input, { ...init, body }), init)
  }
  globalThis.fetch = Object.assign(guarded, original)
}

export const Guard = async () => {
  if (!guarding) guardFetch()
  guarding = true
  return {
    // A native package takes sampling values only here, before it builds its body.
    "chat.params": async (_input, output) => {
      if (!native) return
      const { temperature, topP } = spec.sampling
      Object.assign(output, { temperature: temperature ?? undefined, topP: topP ?? undefined, topK: undefined })
      for (const name of spec.dropped) delete output.options[name]
    },
    // The environment block (folder, date, model) that no setting of opencode removes.
    "experimental.chat.system.transform": async (_input, output) => {
      const own = spec.system !== null && output.system.join("\n").startsWith(spec.system)
      if (own && !spec.context) output.system.splice(0, output.system.length, spec.system)
    },
    // opencode announces an attached file with its absolute path; the file itself is enough.
    "experimental.chat.messages.transform": async (_input, output) => {
      for (const message of output.messages)
        message.parts = message.parts.filter((part) => !(part.synthetic && aboutAttachment(part)))
    },
  }
}

function aboutAttachment(part) {
  return part.text?.includes(spec.attachments) || /^(Image|PDF) read successfully$/.test(part.text)
}
