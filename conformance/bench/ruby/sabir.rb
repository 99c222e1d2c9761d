# frozen_string_literal: true

# Sabir, with the Ruby port's client and worker.

require_relative "../../../ruby/lib/sabir"
require_relative "bench"

SERVICE, URL = Bench::PLACE.values_at("service", "redis")

def worker
  server = Sabir::Server.new(SERVICE, url: URL, threads: Bench::PLACE["concurrency"])
  wait = Bench::PLACE["wait_ms"] / 1e3
  server.register("echo") do |text|
    sleep(wait) if wait.positive?
    text
  end
  server.register("slow") do |text|
    sleep(Bench::SLOW_S)
    text
  end
  Bench.until_the_end
  server.run { Bench.ready }
end

def client
  client = Sabir::Client.new(url: URL, timeout: Bench::TIMEOUT_S)
  late = lambda do
    client.call(SERVICE, "slow", ["x"], timeout: Bench::SLOW_S / 2)
  rescue Sabir::CallTimeout, Sabir::DeadlineExceeded
    nil
  end
  Bench.orders(late) { |text| client.call(SERVICE, "echo", [text]) }
  client.close
end

Bench::ROLE == "worker" ? worker : client
