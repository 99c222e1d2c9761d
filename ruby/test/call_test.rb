# frozen_string_literal: true

require "helper"

# Calls through a real server.
class CallTest < LiveTest
  class TooPoor < Sabir::ApplicationError
    CODE = 1001
  end

  def test_a_call_looks_local
    serve { |server| server.register("display") { |hash:, method:| [hash, method] } }
    calc = client.service("calc")
    assert_equal 3, calc.add(1, 2)
    assert_equal 3, calc.add(a: 1, b: 2)
    assert_equal [[1, "é🎏", nil, { "a" => 0.5 }]], calc.echo([[1, "é🎏", nil, { a: 0.5 }]])
    assert_equal({ "a" => 1 }, calc.echo({ a: 1 })) # one Hash in braces is positional
    assert_equal [1, 2], calc.display(hash: 1, method: 2)
    assert_equal 3, client.call("calc", "add", [1, 2])
    assert_equal 3, client.call("calc", "add", { "a" => 1, "b" => 2 })
  end

  def test_ruby_asks_a_proxy_nothing_over_the_wire
    calc = client.service("calc")
    assert_equal "#<Sabir::Proxy calc>", calc.inspect
    assert_equal "calc is #<Sabir::Proxy calc>", "calc is #{calc}"
    assert_equal 1, [[calc]].flatten.size
    assert_output("#<Sabir::Proxy calc>\n") { puts calc }
    assert_raises(TypeError) { [].concat(calc) }
    assert_raises(ArgumentError) { calc.add(1, b: 2) }
    assert_raises(ArgumentError) { calc.add(1) { nil } }
    assert_equal 0, @redis.exists(keys.requests)
  end

  def test_errors_reach_the_caller
    serve do |server|
      server.register("poor") { raise TooPoor.new("too poor", data: { missing: 3 }) }
      server.register("boom") { raise KeyError, "boom" }
      server.register("inner") { 1.upto }
      server.register("leave") { exit }
      server.register("forge") { raise Sabir::WorkerLost, "not me" }
      server.register("reserved") { raise Sabir::ApplicationError.new("m", code: -32_005) }
      server.register("unsendable") { raise Sabir::ApplicationError.new("m", data: Object.new) }
      server.register("huge") { raise Sabir::ApplicationError, "m" * 2_000_000 }
      server.register("bytes") { raise "\xFF\xFE".b }
      server.register("nan") { Float::NAN }
      server.register("date") { Time.now }
      server.register("large") { "x" * 1_048_576 }
    end
    calc = client(errors: [TooPoor]).service("calc")
    error = assert_raises(TooPoor) { calc.poor }
    assert_equal [1001, "too poor", { "missing" => 3 }], [error.code, error.message, error.data]
    assert_instance_of Sabir::ApplicationError, assert_raises(Sabir::ApplicationError) { client.call("calc", "poor") }
    assert_equal "KeyError: boom", assert_raises(Sabir::InternalError) { calc.boom }.message
    assert_nil assert_raises(Sabir::InternalError) { calc.boom }.data # SABIR-WORKER-7
    assert_raises(Sabir::InvalidParams) { calc.add(1) }
    { Sabir::InternalError => %w[inner leave forge reserved unsendable huge bytes],
      Sabir::InvalidResult => %w[nan date large],
      Sabir::MethodNotFound => %w[sub inspect instance_eval __proto__ constructor send rpc.ping] }.each do |row, names|
      names.each { |name| assert_raises(row, name) { client.call("calc", name) } }
    end
    refute_match(/too poor|boom|not me/, @log.string) # SABIR-SECURITY-1
  end

  def test_traces_only_if_asked_for
    serve(traces: true) { |server| server.register("boom") { raise "boom" } }
    assert_match(/call_test/, assert_raises(Sabir::InternalError) { client.call("calc", "boom") }.data["trace"].first)
  end

  def test_many_calls_are_one_push
    serve { |server| server.register("fail") { raise Sabir::ApplicationError, "no" } }
    results = nil
    lines = monitored do
      results = client.many("calc", [["add", [1, 2]], ["fail"], ["echo", { value: nil }], ["sub", []]])
    end
    assert_equal [3, nil], results.values_at(0, 2)
    assert_equal [Sabir::ApplicationError, Sabir::MethodNotFound], results.values_at(1, 3).map(&:class)
    assert_equal 1, lines.grep(/"RPUSH" "#{keys.requests}"/).size
    assert_equal [], client.many("calc", [])
    assert_raises(ArgumentError) { client.many("calc", [["add", [1, 2]], ["", []]]) }
  end

  def test_notifications
    seen = Queue.new
    serve do |server|
      server.register("note") { |text| (seen << text) && Object }
      server.register("boom") { raise "boom" }
    end
    id = client.notify("calc", "note", ["hello"])
    assert_match(/\A\h{32}\z/, id)
    assert_equal "hello", seen.pop
    %w[boom sub].each { |name| client.notify("calc", name) }
    client.notify("calc", "note", [], expires: 5)
    eventually("three dead letters") { dead.size == 3 } # SABIR-DEAD-2; a result without JSON is none
    assert_equal [-32_603, -32_602, -32_601].sort, dead.map { |letter| letter["error"]["code"] }.sort
  end

  def test_time_outs
    calc = client
    [0, -1, Float::NAN, Float::INFINITY, 1_000_000_001, "1"].each do |timeout| # SABIR-CALL-4
      assert_raises(ArgumentError) { calc.call("calc", "add", [1, 2], timeout: timeout) }
      assert_raises(ArgumentError) { Sabir::Client.new(timeout: timeout) }
      assert_raises(ArgumentError) { calc.service("calc", timeout: timeout) }
    end
    alive!
    started = Sabir::Clock.monotonic
    error = assert_raises(Sabir::CallTimeout) { calc.call("calc", "add", [1, 2], timeout: 0.2) }
    assert_includes 0.2..1.2, Sabir::Clock.monotonic - started # SABIR-CALL-2
    assert_equal "may have run", error.outcome
    assert_equal 1, @redis.llen(keys.requests) # nobody takes it back: its deadline drops it [SABIR-QUEUE-2]
    serve
    eventually("it is dropped") { @redis.llen(keys.requests).zero? && @log.string.include?("DeadlineExceeded") }
    assert_equal 3, calc.call("calc", "add", [1, 2])
  end

  def test_the_deadline_is_redis_s # SABIR-CALL-5
    alive!
    seconds, micros = @redis.time
    assert_raises(Sabir::CallTimeout) { client.call("calc", "add", [1, 2], timeout: 0.05) }
    deadline = JSON.parse(@redis.lpop(keys.requests))["deadline"]
    assert_in_delta (seconds * 1000) + (micros / 1000) + 50, deadline, 200
  end

  def test_a_handler_hands_its_time_on # SABIR-TIME-5
    nested = client
    serve do |server|
      server.register("outer") { [Sabir.context.deadline, nested.call("inner", "context", timeout: 100)] }
    end
    serve(service: "inner") do |server|
      server.register("context") do
        Sabir.context.then do |it|
          [it.deadline, it.traceparent, it.caller, it.attempt, it.service, it.method, it.worker, it.time_left]
        end
      end
    end
    outer, (inner, *others, left) = client(name: "web-1").call("calc", "outer", timeout: 2, traceparent: "00-1-1-01")
    assert_operator inner, :<=, outer + 2 # two readings of one clock
    assert_equal ["00-1-1-01", "client", 1, "inner", "context", @servers.last.worker], others
    assert_operator left, :<=, 2
    assert_nil Sabir.context
  end

  def test_without_time_left_nothing_is_sent # SABIR-TIME-5
    clock = Sabir::Clock.new.tap { |it| it.set(@redis.time) }
    request = Sabir::Messages::Request.new(deadline: clock.now_ms)
    Sabir::Context.with(Sabir::Context.new(request, "calc", "w.1", clock)) do
      assert_equal 0.0, Sabir.context.time_left
      assert_raises(Sabir::DeadlineExceeded) { client.call("calc", "add", [1, 2]) }
    end
    assert_equal 0, @redis.exists(keys.requests)
  end

  def test_refused_before_anything_is_sent # SABIR-KEY-2, SABIR-LIMIT-1
    nobody = client(url: "redis://127.0.0.1:1/0")
    assert_raises(ArgumentError) { nobody.call("a}", "add") }
    assert_raises(ArgumentError) { nobody.call("calc", "a b") }
    assert_raises(ArgumentError) { nobody.call("calc", "add", [Float::NAN]) }
    assert_raises(Sabir::LimitExceeded) { nobody.call("calc", "add", ["x" * 1_048_576]) }
    assert_raises(Sabir::NotQueued) { nobody.call("calc", "add", [1, 2], timeout: 0.1) } # SABIR-LOST-5
    assert_equal [Sabir::NotQueued], nobody.many("calc", [["add"]], timeout: 0.1).map(&:class)
  end

  def test_a_refused_push_ends_the_call_at_once # SABIR-LOST-5
    @redis.set(keys.requests, "no list")
    started = Sabir::Clock.monotonic
    assert_match(/WRONGTYPE/, assert_raises(Sabir::NotQueued) { client.call("calc", "add", [1, 2]) }.message)
    assert_raises(Sabir::NotQueued) { client.notify("calc", "add", [1, 2]) }
    assert_operator Sabir::Clock.monotonic - started, :<, 1
  end

  def test_replies_of_others_and_bad_replies # SABIR-REPLY-4, SABIR-REPLY-5
    alive!
    calls = Thread.new { client.many("calc", [["add"], ["add"]]) }
    first, second = Array.new(2) { JSON.parse(@redis.blpop(keys.requests, timeout: 5).last) }
    reply_to = keys.reply(first["reply_to"])
    good = ->(id, result) { Sabir::Messages.encode_result(id: id, worker: "w.1", result: result) }
    both = { v: 1, id: second["id"], worker: "w.1", body: { jsonrpc: "2.0", id: second["id"], result: 1, error: nil } }
    replies = [good.call("0" * 32, 1), good.call(first["id"], 7), good.call(first["id"], 8), JSON.generate(both)]
    @redis.rpush(reply_to, ["no JSON", *replies])
    results = calls.value
    assert_equal 7, results.first
    assert_instance_of Sabir::InvalidReply, results.last
  end

  def test_threads_share_a_client
    serve(threads: 4)
    shared = client
    threads = Array.new(8) { |n| Thread.new { Array.new(20) { |m| shared.call("calc", "add", [n, m]) } } }
    assert_equal (0..7).flat_map { |n| (0..19).map { |m| n + m } }, threads.flat_map(&:value)
  end

  def test_a_fork_makes_connections_of_its_own
    serve
    shared = client
    assert_equal 3, shared.call("calc", "add", [1, 2])
    reader, writer = IO.pipe
    pid = fork do
      writer.puts Array.new(20) { |n| shared.call("calc", "add", [n, 100]) }.sum
      writer.flush
      exit!(0)
    end
    mine = Array.new(20) { |n| shared.call("calc", "add", [n, 0]) }.sum
    Process.wait(pid)
    assert_equal [190, 2190], [mine, reader.gets.to_i]
  ensure
    [reader, writer].each(&:close)
  end

  def test_an_injected_redis_gives_its_settings
    redis = Redis.new(url: TestServer.url, id: "mine")
    serve(redis: redis, url: nil)
    assert_equal 3, client(redis: redis, url: nil).call("calc", "add", [1, 2])
    refute redis.connected?
  end

  def test_the_exact_commands_of_a_call # SABIR-LEASE-2, SABIR-REPLY-3
    serve(threads: 1)
    mine = client
    mine.call("calc", "add", [1, 2])
    lines = monitored { mine.call("calc", "add", [1, 2]) }.grep(/#{@namespace}/).grep_v(/"ZADD"|:requests" .* "RIGHT"/)
    calls = lines.map { |line| line.scan(/"([A-Z]+)"/).flatten.join(" ") }
    assert_equal ["DEL", "RPUSH", "EXISTS", "BLMOVE LEFT LEFT", "RPUSH", "PEXPIRE", "LREM"], calls # SABIR-WAIT-2
  end

  def test_a_call_is_one_write_of_each_side # SABIR-LEASE-2, SABIR-REPLY-3, SABIR-ALIVE-1
    near = proxy
    far = proxy
    serve(url: far.url, threads: 1)
    mine = client(url: near.url)
    2.times { mine.call("calc", "add", [1, 2]) }
    [near, far].each { |link| link.written.clear }
    5.times { assert_equal 3, mine.call("calc", "add", [1, 2]) }
    sent = [near, far].map do |link|
      link.written.grep_v(/EVALSHA/).map { |bytes| bytes.scan(/^\*\d+\r\n\$\d+\r\n(\w+)/).join(" ") }
    end
    assert_equal [["DEL RPUSH EXISTS BLMOVE"] * 5, ["MULTI RPUSH PEXPIRE LREM EXEC ZADD BLMOVE"] * 5], sent
  end

  def test_copied_alone_it_works
    Dir.mktmpdir do |folder|
      FileUtils.cp_r([File.join(ROOT, "lib"), File.join(ROOT, "examples")], folder)
      environment = { "REDIS_URL" => TestServer.url, "SABIR_NAMESPACE" => @namespace }
      run = ->(*command) { Open3.capture2(environment, "ruby", "-w", *command, chdir: folder) }
      program(environment, "ruby", "examples/worker.rb", chdir: folder) do |output|
        assert_match(/\Aready calc worker\.\h+\n\z/, output.gets)
        tour, status = run.call("examples/client.rb")
        assert status.success?, tour
        report, status = run.call("examples/demo.rb", "calc")
        assert status.success?, report
        assert_equal [true] * 9, (report.lines.map { |line| JSON.parse(line)["ok"] })
      end
    end
    assert_empty @redis.keys("#{@namespace}:*") # SABIR-STOP-5, SABIR-WAIT-2
  end

  private

  # What the server executes meanwhile.
  def monitored
    lines = Queue.new
    socket = TCPSocket.new(URI(TestServer.url).host, URI(TestServer.url).port)
    socket.write("MONITOR\r\n")
    socket.gets
    reader = Thread.new { loop { lines << socket.gets } }
    yield
    @redis.echo(mark = SecureRandom.hex(8))
    seen = []
    seen << lines.pop until seen.last&.include?(mark)
    seen
  ensure
    reader&.kill
    socket&.close
  end
end
