# frozen_string_literal: true

# What `make demo` asks each worker: one line of JSON per service and check; exit 0 if all are ok.
# ruby -Ilib examples/demo.rb SERVICE…

require "json"
require_relative "../lib/sabir"

# The example workers' application error.
class DivisionByZero < Sabir::ApplicationError
  CODE = 1001
end

NUMBERS = [0, -1, (2**53) - 1, 1 - (2**53), 0.5, -1.25e-3, 1e300].freeze
NESTED = { "a" => [1, { "b" => [nil, true, false, ""] }], "c" => {}, "d" => [] }.freeze

CLIENT = Sabir::Client.new(url: ENV.fetch("REDIS_URL", Sabir::Client::URL),
                           namespace: ENV.fetch("SABIR_NAMESPACE", "sabir"), timeout: 10, errors: [DivisionByZero])

def milliseconds
  start = Process.clock_gettime(Process::CLOCK_MONOTONIC, :float_millisecond)
  yield
  Process.clock_gettime(Process::CLOCK_MONOTONIC, :float_millisecond) - start
end

# @raise [RuntimeError] the block returns anything else
def expect(expected)
  seen = yield
  raise "expected #{expected.inspect}, got #{seen.inspect}" unless seen == expected
end

def caught(kind)
  yield
  "nothing raised"
rescue kind => e
  [e.class, e.code, e.data]
end

def noted?(calc, text)
  deadline = Process.clock_gettime(Process::CLOCK_MONOTONIC) + 2
  until (seen = calc.notes.include?(text)) || Process.clock_gettime(Process::CLOCK_MONOTONIC) > deadline
    sleep 0.01
  end
  seen
end

CHECKS = {
  "positional" => ->(calc, _) { expect(3) { calc.add(1, 2) } },
  "named" => ->(calc, _) { expect(3) { calc.add(b: 2, a: 1) } },
  "unicode" => ->(calc, _) { "šabïr 🎏 \u0000 \u2028".then { |text| expect(text) { calc.echo(text) } } },
  "nested" => ->(calc, _) { expect(NESTED) { calc.echo(NESTED) } },
  "numbers" => ->(calc, _) { expect(NUMBERS) { calc.echo(NUMBERS) } },
  "application_error" => lambda do |calc, _|
    expect([DivisionByZero, 1001, { "a" => 7 }]) { caught(Sabir::SabirError) { calc.divide(7, 0) } }
  end,
  "unknown_method" => lambda do |calc, _|
    expect([Sabir::MethodNotFound, -32_601, nil]) { caught(Sabir::SabirError) { calc.no_such_method } }
  end,
  "notification" => lambda do |calc, service|
    text = "ruby #{SecureRandom.hex(8)}"
    CLIENT.notify(service, "note", [text])
    expect(true) { noted?(calc, text) }
  end,
  "latency" => lambda do |calc, _|
    times = Array.new(50) { milliseconds { calc.add(1, 2) } }
    times.sort[25].round(3)
  end
}.freeze

def report(service, check, test)
  median = detail = nil
  ms = milliseconds do
    median = test.call(CLIENT.service(service), service)
  rescue StandardError => e
    detail = "#{e.class}: #{e.message}"
  end
  { service: service, check: check, ok: detail.nil?, ms: median || ms.round(3), detail: detail.to_s }
end

all = ARGV.product(CHECKS.to_a).map do |service, (check, test)|
  line = report(service, check, test)
  puts JSON.generate(line)
  $stdout.flush
  line[:ok]
end
CLIENT.close
exit(all.all? ? 0 : 1)
