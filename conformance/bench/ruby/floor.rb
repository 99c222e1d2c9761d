# frozen_string_literal: true

# The floor: what a call over Redis lists costs at least in Ruby, with the gem redis (4.8 or 5) and JSON.
#
# The client pushes and pops; the worker moves to its hand, replies and acknowledges: nothing is checked, or survives.

require "redis"
require "securerandom"
require_relative "bench"

REQUESTS, HAND = %w[requests hand].map { |part| "#{Bench::PLACE["service"]}:#{part}" }

# A connection that sends commands in one write, and reads a reply when it is asked to.
class Raw
  def initialize
    redis = Redis.new(url: Bench::PLACE["redis"], timeout: 3600)
    redis.ping
    if defined?(RedisClient)
      redis._client.disable_reconnection { |driver| @driver = driver }
    else
      @driver = redis._client.connection
      @socket = @driver.instance_variable_get(:@sock)
    end
  end

  def send(*commands)
    return @driver.write_multi(commands) unless @socket # the gem's version 5

    @socket.write(commands.map { |command| @driver.build_command(command).b }.join)
  end

  def read = @driver.read
end

# One call after another over a connection of its own.
class Caller
  def initialize
    @raw = Raw.new
    @inbox = "#{Bench::PLACE["service"]}:reply.#{SecureRandom.hex(4)}"
  end

  def call(text)
    id = SecureRandom.hex(16)
    body = { jsonrpc: "2.0", id: id, method: "echo", params: [text] }
    request = JSON.generate({ v: 1, id: id, reply_to: @inbox, body: body })
    @raw.send(["RPUSH", REQUESTS, request], ["BLPOP", @inbox, "0"])
    @raw.read
    JSON.parse(@raw.read.last)["body"]["result"]
  end
end

def reply_to(call)
  id = call["id"]
  sleep(Bench::PLACE["wait_ms"] / 1e3) if Bench::PLACE["wait_ms"].positive?
  body = { jsonrpc: "2.0", id: id, result: call["body"]["params"].first }
  JSON.generate({ v: 1, id: id, worker: "floor", body: body })
end

def worker
  raw = Raw.new
  take = ["BLMOVE", REQUESTS, HAND, "LEFT", "RIGHT", "0"]
  raw.send(take)
  Bench.until_the_end
  Bench.ready
  while (element = raw.read)
    call = JSON.parse(element)
    inbox = call["reply_to"]
    raw.send(["RPUSH", inbox, reply_to(call)], ["PEXPIRE", inbox, "60000"], ["LREM", HAND, "1", element], take)
    3.times { raw.read }
  end
end

def client
  idle = [] # callers, of which each thread has one at a time
  Bench.orders do |text|
    caller = idle.pop || Caller.new
    caller.call(text).tap { idle.push(caller) }
  end
end

Bench::ROLE == "worker" ? worker : client
