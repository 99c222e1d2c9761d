# frozen_string_literal: true

# Puts the Ruby port behind JSON lines. See docs/driver.md of the suite.

require "json"
require "set"
require_relative "../../../ruby/lib/sabir"

WRITING = Mutex.new
OPENING = Mutex.new
CLIENTS = {}
SERVERS = {}

def say(line)
  WRITING.synchronize { $stdout.write(JSON.generate(line) << "\n") }
end

# JSON text to a value and back, as deep as it comes and with what the port let pass.
def read(text) = JSON.parse(text, max_nesting: false)
def write(value) = JSON.generate(value, max_nesting: false, allow_nan: true)

# ---------------------------------------------------------------------------------------------------- client

def outcome_of
  { outcome: "result", value: write(yield) }
rescue Sabir::SabirError => e
  failure(e)
rescue ArgumentError, TypeError => e
  { outcome: "refused_locally", message: e.message.scrub }
end

KINDS = { Sabir::CallTimeout => "timeout", Sabir::ServiceUnavailable => "unavailable",
          Sabir::Overloaded => "overloaded", Sabir::ConnectionLost => "transport_error",
          Sabir::NotQueued => "transport_error" }.freeze

def failure(error)
  answer = { outcome: KINDS.fetch(error.class, "error"), name: error.class.name.delete_prefix("Sabir::"),
             code: error.code, message: error.message }
  error.data.nil? ? answer : { **answer, data: write(error.data) }
end

def client_of(ask)
  options = { url: ask["url"], namespace: ask["namespace"], name: ask.fetch("name", "client") }
  options[:max_queue] = ask["max_queue"] if ask.key?("max_queue")
  OPENING.synchronize { CLIENTS[options] ||= Sabir::Client.new(**options) }
end

def seconds(ms) = ms && (ms / 1000.0)

# What JSON does not have, by its name.
def value_of(name)
  { "nan" => Float::NAN, "infinity" => Float::INFINITY, "set" => Set[1], "surrogate" => "\xED\xA0\x80",
    "bytes" => "\xFF".b }.fetch(name)
end

def params_of(ask)
  return [value_of(ask["value"])] if ask.key?("value")

  ask.key?("params") ? read(ask["params"]) : nil
end

def do_call(ask)
  options = { timeout: seconds(ask["timeout_ms"]), idempotent: ask.fetch("idempotent", false) }
  way = ask["retry"] ? :retry : :call
  outcome_of { client_of(ask).method(way).call(ask["service"], ask["method"], params_of(ask), **options) }
end

def do_wait(ask) = outcome_of { client_of(ask).wait_for_service(ask["service"], timeout: seconds(ask["timeout_ms"])) }

def do_many(ask)
  calls = ask["calls"].map { |call| [call["method"], read(call["params"])] }
  ended = nil
  refused = outcome_of { (ended = client_of(ask).many(ask["service"], calls, timeout: seconds(ask["timeout_ms"]))) && 0 }
  ended ? { outcomes: ended.map { |e| e.is_a?(Sabir::SabirError) ? failure(e) : outcome_of { e } } } : refused
end

def do_notify(ask)
  options = { expires: seconds(ask["expires_ms"]), idempotent: ask.fetch("idempotent", false) }
  answer = outcome_of { client_of(ask).notify(ask["service"], ask["method"], params_of(ask), **options) }
  answer[:outcome] == "result" ? { outcome: "sent" } : answer
end

def do_close(ask)
  place = ask.values_at("url", "namespace")
  keys = OPENING.synchronize { CLIENTS.keys.select { |key| key.values_at(:url, :namespace) == place } }
  keys.each { |key| CLIENTS.delete(key).close }
  {}
end

# ---------------------------------------------------------------------------------------------------- server

class Own < Sabir::ApplicationError
  CODE = 1001
end

# A method that says that it is invoked before it is; its parameters are those of the lambda.
Announced = Struct.new(:handler, :announce) do
  def parameters = handler.parameters

  def call(*args, **named)
    announce.call(named.slice(:key))
    handler.call(*args, **named)
  end
end

def job(place, key, duration, size, fails)
  sleep(duration)
  say({ event: "finished", **place, method: "job", key: key })
  fails ? raise(Own, "failed") : "x" * size
end

def methods_of(ask, place)
  { echo: ->(value) { value },
    add: ->(a, b) { a + b },
    fail: lambda { |code: 1001, message: "failed", data: nil|
      raise Sabir::ApplicationError.new(message, code: code, data: data)
    },
    fail_plain: -> { raise Own, "plain" },
    boom: ->(text = "boom") { raise text },
    sleep_ms: ->(ms) { sleep(ms / 1000.0) && ms },
    spin_ms: ->(ms) { (Sabir::Clock.monotonic + (ms / 1000.0)).then { nil while Sabir::Clock.monotonic < _1 } || ms },
    job: ->(key:, ms: 0, size: 0, fail: false) { job(place, key, ms / 1000.0, size, fail) },
    blob: ->(size) { "x" * size },
    note: ->(*) {},
    crash: -> { exit!(3) },
    unwritable: ->(value) { value_of(value) },
    nested: lambda { |service, method, params, timeout_ms = nil|
      client_of(ask).call(service, method, params, timeout: seconds(timeout_ms))
    },
    about: lambda {
      now = Sabir.context
      { "caller" => now.caller, "traceparent" => now.traceparent, "attempt" => now.attempt, "worker" => now.worker,
        "left_ms" => now.time_left && (now.time_left * 1000) }
    } }
end

def do_serve(ask)
  place = ask.slice("namespace", "service")
  counts = Hash.new(0)
  server = Sabir::Server.new(ask["service"], url: ask["url"], namespace: ask["namespace"], name: "driver",
                                             threads: ask.fetch("concurrency", 4),
                                             handler_timeout: seconds(ask["handler_timeout_ms"]))
  methods_of(ask, place).each do |name, handler|
    announce = lambda do |key|
      WRITING.synchronize { counts[name.to_s] += 1 }
      say({ event: "invoked", **place, method: name, **key })
    end
    server.register(name, Announced.new(handler, announce))
  end
  server.register("count") { |method| counts[method] }
  SERVERS[place] = server.start
  { worker: server.worker }
end

def do_stop(ask)
  SERVERS.delete(ask.slice("namespace", "service")).stop
  {}
end

# ---------------------------------------------------------------------------------------------------- both

COMMANDS = {
  "client" => { "call" => :do_call, "many" => :do_many, "notify" => :do_notify, "wait" => :do_wait,
                "close" => :do_close },
  "server" => { "serve" => :do_serve, "stop" => :do_stop, "close" => :do_close }
}.fetch(ARGV.last)
HELLO = { name: "sabir", version: Sabir::VERSION, language: "Ruby #{RUBY_VERSION}", spec: ["1"], concurrent: true,
          features: %w[many nested context untyped retry bound wait handler_timeout spin] }.freeze

def handle(ask)
  command = COMMANDS[ask["cmd"]]
  answer = ask["cmd"] == "hello" ? HELLO : (command ? send(command, ask) : { error: "unsupported" })
  say({ id: ask["id"], **answer })
rescue StandardError => e # the driver's own, not the port's
  say({ id: ask["id"], error: "#{e.class}: #{e.message.scrub}" })
end

$stdout.sync = true
$stdin.set_encoding(Encoding::UTF_8).each_line { |line| Thread.new(read(line)) { |ask| handle(ask) } }
exit!(0)
