# frozen_string_literal: true

require "helper"

# A worker, seen from Redis.
class ServerTest < LiveTest
  def test_whatever_lies_in_requests # SABIR-WORKER-5
    server = serve
    push("hello", "", "\xFF\xFE{}".b, "[]", "[" * 100_000, JSON.generate(v: 1, id: "x"),
         element("add", [], id: "1" * 32, reply_to: nil),
         element(id: "2" * 32).sub('"2.0"', '"1.0"'),
         element(id: "3" * 32).sub('"v":1', '"v":2'),
         element("echo", ["x" * (2**20)], id: "4" * 32, max_bytes: 2**21),
         element("echo", [1e300], id: "5" * 32).sub("1.0e+300", "1e400"),
         element)
    codes = Array.new(5) { reply }.to_h { |answer| [answer["id"], answer.dig("body", "error", "code")] }
    assert_equal [-32_600, -32_006, -32_007, -32_008], codes.values_at("2" * 32, "3" * 32, "4" * 32, "5" * 32)
    assert_includes codes.values, nil
    eventually("an empty hand") { hand(server).empty? && dead.size == 7 }
    assert_equal [-32_700, -32_700, -32_700, -32_602, -32_600, -32_600, -32_007],
                 dead.map { |letter| letter["error"]["code"] }.sort
    assert_equal ["//57fQ=="], (dead.filter_map { |letter| letter["element_base64"] })
    assert_empty @log.string.lines.grep_v(/calc: request (without an id|\h{32}): Sabir::\w+$/) # SABIR-SECURITY-1
  end

  def test_elements_are_removed_as_they_were_read # SABIR-TRANSPORT-4
    server = serve
    push(element.sub(",", " ,\n\t"), element.sub("add", "\\u0061dd"), "\xC3(".b)
    assert_equal([3, 3], Array.new(2) { reply["body"]["result"] })
    eventually("an empty hand") { dead.size == 1 && hand(server).empty? }
  end

  def test_the_reply_and_its_end
    server = serve
    push(request = element)
    answer = reply
    assert_equal [1, JSON.parse(request)["id"], server.worker], answer.values_at("v", "id", "worker")
    push(element)
    eventually("a reply") { @redis.exists(keys.reply("test.1")).positive? }
    assert_operator @redis.pttl(keys.reply("test.1")), :>, 50_000 # SABIR-REPLY-3
    assert_operator @redis.pttl(keys.reply("test.1")), :<=, 60_000
  end

  def test_the_lease_and_the_hand
    go = Queue.new
    server = serve { |it| it.register("wait") { go.pop } }
    seconds, = @redis.time
    assert_in_delta (seconds + 10) * 1000, @redis.zscore(keys.leases, server.worker), 2_000 # SABIR-LEASE-1
    assert_operator @redis.pttl(keys.alive), :>, 8_000
    push(waiting = element("wait", []))
    eventually("it runs") { go.num_waiting == 1 }
    assert_equal [waiting], hand(server) # SABIR-WORKER-4
    go << 1
    reply
    assert_empty hand(server)
  end

  def test_not_more_is_taken_than_can_be_started # SABIR-WORKER-3
    go = Queue.new
    server = serve(threads: 2) { |it| it.register("wait") { go.pop } }
    5.times { push(element("wait", [])) }
    eventually("two are taken") { hand(server).size == 2 }
    assert_equal 3, @redis.llen(keys.requests)
    5.times { go << 1 }
    5.times { assert reply }
  end

  def test_a_slow_handler_holds_nobody_up
    go = Queue.new
    serve(threads: 3) { |it| it.register("wait") { go.pop } }
    push(element)
    assert reply
    took = Array.new(2) do |n|
      push(element("wait", [], reply_to: "test.2"))
      eventually("it runs") { go.num_waiting == n + 1 }
      started = Sabir::Clock.monotonic
      push(element)
      assert_equal 3, reply["body"]["result"]
      Sabir::Clock.monotonic - started
    end
    assert_operator took.min, :<, 0.1
    2.times { go << 1 }
    2.times { assert reply("test.2") }
  end

  def test_slow_handlers_run_side_by_side
    serve(threads: 8) { |it| it.register("wait") { sleep(0.05) } }
    started = Sabir::Clock.monotonic
    push(*Array.new(32) { element("wait", []) })
    32.times { assert reply }
    assert_operator Sabir::Clock.monotonic - started, :<, 0.8 # 0.2 at best, 1.6 one after another
  end

  def test_who_leads
    lead = Sabir::Lead.new
    led = Queue.new
    lead.follow
    assert lead.end(lead.begin)
    followers = Array.new(2) { |n| Thread.new { lead.follow.then { led << n } && Thread.stop } }
    eventually("they follow") { followers.all? { |thread| thread.status == "sleep" } }
    assert_empty led
    began = lead.begin
    eventually("another one leads") { led.size == 1 } # as this handler does not end
    refute lead.end(began)
    8.times { lead.end(began - 1) }
    lead.resign # it does not lead: that changes nothing
    assert_equal 1, led.size
  ensure
    followers.each(&:kill)
  end

  def test_who_came_last_leads_next # so that no more threads work, each with memory of its own, than are needed
    threads = []
    serve(threads: 8) { |it| it.register("slow") { sleep(0.003).then { threads << Thread.current.object_id } && nil } }
    client.then { |client| 30.times { client.call("calc", "slow") } }
    assert_operator threads.uniq.size, :<=, 4
  end

  def test_where_handlers_are_slow_the_next_one_leads_at_once
    lead = Sabir::Lead.new
    led = Queue.new
    lead.follow
    8.times { assert lead.end(lead.begin - 1) }
    follower = Thread.new { lead.follow.then { led << 1 } && Thread.stop }
    eventually("it follows") { follower.status == "sleep" }
    began = lead.begin
    refute lead.end(began)
    eventually("it leads") { led.size == 1 }
    20.times { lead.end(Sabir::Clock.monotonic) }
    assert_operator lead.instance_variable_get(:@share), :<, Sabir::Lead::SLOW
  ensure
    follower.kill
  end

  def test_a_stop_is_prompt_and_finishes_what_was_begun # SABIR-STOP-1, -2, -4
    go = Queue.new
    server = serve(threads: 2) { |it| it.register("wait") { go.pop } }
    push(element("wait", [], reply_to: "test.2"))
    eventually("it runs") { go.num_waiting == 1 }
    stop = Thread.new { server.stop }
    eventually("it takes nothing more") { push(element("echo", [1])) && @redis.llen(keys.requests) > 1 }
    assert stop.alive?
    assert @redis.zscore(keys.leases, server.worker)
    go << "done"
    stop.join
    assert_equal "done", reply("test.2")["body"]["result"]
    assert_nil @redis.zscore(keys.leases, server.worker)
    assert_equal 0, @redis.exists(keys.active(server.worker))
  end

  def test_what_was_taken_and_not_begun_is_given_back # SABIR-STOP-3
    server = serve(threads: 1)
    taken = element("echo", [1])
    take_one_behind_its_back(server, taken)
    server.stop
    assert_equal [taken], @redis.lrange(keys.requests, 0, -1)
    assert_nil @redis.zscore(keys.leases, server.worker)
  end

  def test_a_stop_without_work_takes_no_block_time
    server = serve
    started = Sabir::Clock.monotonic
    server.stop
    server.stop
    assert_operator Sabir::Clock.monotonic - started, :<, 1
  end

  def test_keys_of_the_wrong_type # SABIR-WORKER-6
    @redis.set(keys.requests, "no list")
    server = serve
    eventually("it says so") { @log.string.include?("WRONGTYPE") }
    @redis.set(keys.reply("test.2"), "no list")
    @redis.del(keys.requests)
    push(element(reply_to: "test.2"), element)
    assert_equal 3, reply(seconds: 8)["body"]["result"]
    eventually("the other one's end too") { hand(server).empty? }
    assert_equal "no list", @redis.get(keys.reply("test.2"))
    assert_equal 1, @log.string.scan("take: WRONGTYPE").size # said once
  end

  def test_a_full_redis_loses_nothing # SABIR-WORKER-6
    skip_unless_ours
    memory = @redis.config(:get, "maxmemory")["maxmemory"]
    go = Queue.new
    server = serve { |it| it.register("wait") { go.pop } }
    push(element("wait", []))
    eventually("it runs") { go.num_waiting == 1 }
    @redis.config(:set, "maxmemory", 1)
    go << "later"
    eventually("it says so") { @log.string.match?(/reply: |take: /) }
    assert_equal 1, hand(server).size
    @redis.config(:set, "maxmemory", memory)
    assert_equal "later", reply(seconds: 8)["body"]["result"]
  ensure
    @redis.config(:set, "maxmemory", memory) if memory
  end

  def test_dead_letters_are_bounded # SABIR-DEAD-3
    @redis.rpush(keys.dead, Array.new(1_200, "{}"))
    serve
    push("hello")
    eventually("the newest 1,000") { @redis.llen(keys.dead) == 1_000 }
    letter = dead.last
    assert_equal [1, "hello", -32_700], [letter["v"], letter["element"], letter["error"]["code"]]
    assert_in_delta @redis.time.first * 1000, letter["at"], 5_000
  end

  def test_an_expired_request_is_not_run # SABIR-TIME-3, SABIR-DEAD-2
    ran = []
    serve { |server| server.register("run") { ran << 1 } }
    push(element("run", [], deadline: 1), element("run", [], deadline: 1, reply_to: nil))
    assert_equal(-32_001, reply["body"]["error"]["code"])
    eventually("a dead letter") { dead.size == 1 }
    assert_equal(-32_001, dead.first["error"]["code"])
    assert_empty ran
  end

  def test_a_signal_stops_it_and_a_second_one_ends_it
    code = <<~RUBY
      server = Sabir::Server.new("calc", url: #{TestServer.url.dump}, namespace: #{@namespace.dump})
      server.register("sleep") { |s| puts "sleeping"; sleep(s) }
      server.run { puts "ready" }
    RUBY
    { %w[TERM] => 0, %w[INT] => 0, %w[TERM TERM] => 1 }.each do |signals, status|
      ended = program("ruby", "-I#{ROOT}/lib", "-rsabir", "-e", "$stdout.sync = true\n#{code}") do |output, worker|
        assert_equal "ready\n", output.gets
        push(element("sleep", [60])) && output.gets if signals.size > 1
        Process.kill(signals.first, worker.pid)
        Process.kill(signals.last, worker.pid) until worker.join(signals.size > 1 ? 0.2 : 10)
      end
      assert_equal status, ended
    end
  end

  def test_a_handler_that_hangs_is_given_up # SABIR-RUN-1
    go = Queue.new
    server = serve(threads: 2, handler_timeout: 0.2) { |it| it.register("wait") { go.pop } }
    started = Sabir::Clock.monotonic
    push(element("wait", []), element)
    assert_equal 3, reply["body"]["result"]
    error = reply["body"]["error"]
    assert_includes 0.2..1.0, Sabir::Clock.monotonic - started
    assert_equal [-32_603, "ran longer than 0.2 s"], error.values_at("code", "message")
    eventually("an empty hand") { hand(server).empty? }
    go << "late"
    eventually("it is back") { go.num_waiting.zero? }
    push(element("wait", [], reply_to: nil), element("add", [3, 4]))
    assert_equal 7, reply["body"]["result"] # and not what came late
    eventually("a dead letter") { dead.any? }
    assert_equal(-32_603, dead.first["error"]["code"])
    server.stop # does not wait for the one that hangs
    assert_empty hand(server)
    assert_equal [1, nil], [go.num_waiting, @redis.zscore(keys.leases, server.worker)]
  end

  def test_a_limit_that_is_none
    [0, -1, "1", Float::NAN, Float::INFINITY].each do |limit|
      assert_raises(ArgumentError, limit.to_s) { Sabir::Server.new("calc", handler_timeout: limit) }
    end
  end

  def test_a_worker_whose_handlers_all_hang_ends # SABIR-RUN-2
    code = <<~RUBY
      server = Sabir::Server.new("calc", url: #{TestServer.url.dump}, namespace: #{@namespace.dump}, threads: 2,
                                         handler_timeout: 0.1)
      server.register("sleep") { sleep }
      server.register("spin") { loop { nil } }
      server.run
    RUBY
    push(element("sleep", []), element("spin", []))
    _, log, status = Open3.capture3("ruby", "-w", "-I#{ROOT}/lib", "-rsabir", "-e", code)
    refute status.success?
    assert_match(/all 2 handlers ran longer than 0.1 s \(RuntimeError\)/, log)
    assert_equal([-32_603] * 2, Array.new(2) { reply["body"]["error"]["code"] })
    assert_empty @redis.keys("#{@namespace}:*")
  end

  def test_the_heart_beats_while_handlers_compute # SABIR-LEASE-1
    server = serve(threads: 4) do |it|
      it.register("spin") { |s| (Sabir::Clock.monotonic + s).then { |ends| nil while Sabir::Clock.monotonic < ends } }
    end
    beats = server.instance_variable_get(:@beats)
    first = beats.sent
    push(*Array.new(4) { element("spin", [3.2]) })
    4.times { assert reply(seconds: 9) }
    assert_operator beats.sent, :>, first
    assert_operator @redis.zscore(keys.leases, server.worker), :>, @redis.time.first * 1000
  end

  def test_each_start_has_an_id_of_its_own # SABIR-WORKER-1
    servers = Array.new(2) { serve(name: "web-1") }
    assert_equal 2, servers.map(&:worker).uniq.size
    servers.each { |server| assert_match(/\Aweb-1\.\h{16}\z/, server.worker) }
    assert_raises(RuntimeError) { servers.first.start }
  end

  private

  def skip_unless_ours = ENV.key?("SABIR_TEST_REDIS_URL") && skip("not on a server that others use")

  # As if the reply to a take had been lost: the element lies in the hand, and the worker has not seen it.
  def take_one_behind_its_back(server, bytes)
    @redis.rpush(keys.active(server.worker), bytes)
  end
end
