# frozen_string_literal: true

# A worker of the service $SABIR_SERVICE (calc), until SIGTERM or Ctrl-C: ruby -Ilib examples/worker.rb

require_relative "../lib/sabir"

# Reaches the caller with its code, message and data.
class DivisionByZero < Sabir::ApplicationError
  CODE = 1001
end

server = Sabir::Server.new(ENV.fetch("SABIR_SERVICE", "calc"),
                           url: ENV.fetch("REDIS_URL", Sabir::Client::URL),
                           namespace: ENV.fetch("SABIR_NAMESPACE", "sabir"))
notes = []

server.register("add") { |a, b| a + b }
server.register("echo") { |value| value }
server.register("divide") do |a, b|
  raise DivisionByZero.new("division by zero", data: { a: a }) if b.zero?

  a.fdiv(b)
end
server.register("note") { |text| notes << text }
server.register("notes") { notes }
server.register("whoami") { { language: "ruby", worker: Sabir.context.worker } }
server.register("boom") { raise "boom" }
server.register("sleep_ms") do |ms|
  sleep(ms / 1000.0)
  ms
end

server.run do
  puts "ready #{server.service} #{server.worker}"
  $stdout.flush
end
