# frozen_string_literal: true

require "helper"

# Connections that break, or fall silent, after Redis has executed what was sent.
class LostTest < LiveTest
  EXECUTED = /\*3\r\n:1\r\n:1\r\n:1\r\n/ # the answer of a reply's EXEC

  # ---- Clients ----

  def test_a_request_is_pushed_once_and_the_call_gets_its_reply # SABIR-LOST-1, SABIR-LOST-2
    link = proxy
    link.arm(/RPUSH/, :cut)
    call = Thread.new { client(url: link.url).call("calc", "run", [1]) }
    link.fired
    ran = Queue.new
    server = serve { |it| it.register("run") { |n| (ran << n).size } }
    assert_equal 1, call.value
    server.stop
    assert_equal 1, ran.size + @redis.llen(keys.requests)
  end

  def test_a_silent_peer_ends_the_call_in_time # SABIR-CALL-2, SABIR-TRANSPORT-2
    link = proxy
    link.arm(/RPUSH/, :swallow)
    started = Sabir::Clock.monotonic
    error = assert_raises(Sabir::ConnectionLost) { client(url: link.url).call("calc", "add", [1, 2], timeout: 0.5) }
    assert_operator Sabir::Clock.monotonic - started, :<, 0.5 + 1
    assert_equal "may have run", error.outcome
    assert_equal 1, @redis.llen(keys.requests)
  end

  def test_many_are_pushed_once
    link = proxy
    link.arm(/RPUSH/, :cut)
    calls = Thread.new { client(url: link.url).many("calc", [["run", [1]], ["run", [2]]]) }
    link.fired
    ran = Queue.new
    server = serve { |it| it.register("run") { |n| (ran << n) && n } }
    assert_equal [1, 2], calls.value
    server.stop
    assert_equal 2, ran.size + @redis.llen(keys.requests)
  end

  def test_an_idempotent_request_is_pushed_once # SABIR-LOST-1
    alive!
    link = proxy
    link.arm(/RPUSH/, :cut)
    call = Thread.new { client(url: link.url).call("calc", "add", [1, 2], idempotent: true) }
    link.fired
    serve
    assert_equal 3, call.value
    assert_equal 0, @redis.llen(keys.requests)
  end

  def test_a_notification_is_pushed_once
    link = proxy
    link.arm(/RPUSH/, :cut)
    assert_raises(Sabir::ConnectionLost) { client(url: link.url).notify("calc", "add", [1, 2]) }
    assert_equal 1, @redis.llen(keys.requests)
  end

  def test_a_client_waits_for_redis_to_come_back
    serve
    link = proxy
    mine = client(url: link.url)
    assert_equal 3, mine.call("calc", "add", [1, 2])
    link.down
    call = Thread.new { sleep 0.2 and mine.call("calc", "add", [2, 2]) }
    eventually("it tries") { call.status == "sleep" }
    link.up
    assert_equal 4, call.value
    assert_equal 0, @redis.exists(keys.dead)
  end

  def test_an_idle_connection_that_was_closed_harms_nobody
    serve
    link = proxy
    mine = client(url: link.url)
    8.times.map { Thread.new { mine.call("calc", "add", [1, 2]) } }.each(&:join)
    link.down
    link.up
    sleep Sabir::Client::IDLE_S
    started = Sabir::Clock.monotonic
    assert_equal 3, mine.call("calc", "add", [1, 2])
    assert_operator Sabir::Clock.monotonic - started, :<, 2
  end

  def test_after_a_time_out_of_the_caller_s_own_the_connection_is_not_used_again
    serve { |server| server.register("slow") { sleep(0.3).then { "late" } } }
    mine = client
    assert_raises(Timeout::Error) { Timeout.timeout(0.1) { mine.call("calc", "slow") } }
    assert_equal 3, mine.call("calc", "add", [1, 2])
  end

  # ---- Workers ----

  def test_a_reply_is_pushed_once # SABIR-LOST-4
    %i[cut swallow].each do |how|
      link = proxy
      server = serve(url: link.url)
      link.arm(EXECUTED, how, from: :redis)
      push(element(reply_to: "test.#{how}"))
      link.fired
      eventually("a take on a new connection") { @log.string.include?("take: works again") }
      assert_equal 1, @redis.llen(keys.reply("test.#{how}"))
      assert_empty hand(server)
      push(element)
      assert reply
      server.stop
      @log.truncate(0)
    end
  end

  # The reply to one and the take of the next are one write.
  def test_what_stood_in_a_write_that_was_cut_is_neither_lost_nor_done_twice # SABIR-LOST-3, SABIR-LOST-4
    [["EXEC.*BLMOVE", :sender, :cut], [EXECUTED.source, :redis, :swallow]].each do |pattern, from, how|
      link = proxy
      ran = Queue.new
      server = serve(url: link.url, threads: 1) { |it| it.register("run") { |n| (ran << n) && n } }
      eventually("it takes") { link.written.last&.include?("BLMOVE") }
      @redis.multi { |both| [1, 2].each { |n| both.rpush(keys.requests, element("run", [n])) } }
      link.arm(/#{pattern}/m, how, from: from)
      assert_equal([1, 2], Array.new(2) { reply(seconds: 9)["body"]["result"] })
      link.fired
      eventually("an empty hand") { hand(server).empty? }
      server.stop
      assert_equal [1, 2], Array.new(ran.size) { ran.pop }
      assert_equal 0, @redis.exists(keys.reply("test.1"), keys.requests)
    end
  end

  def test_a_connection_that_breaks_after_the_reply_was_acknowledged
    link = proxy
    server = serve(url: link.url)
    2.times do |n|
      push(element(reply_to: "test.#{n}"))
      eventually("a reply") { hand(server).empty? && @redis.llen(keys.reply("test.#{n}")) == 1 }
      link.down # while it waits for the next one
      link.up
    end
    push(element(reply_to: "test.2"))
    assert reply("test.2", seconds: 9)
    assert_equal([1, 1], %w[test.0 test.1].map { |token| @redis.llen(keys.reply(token)) })
  end

  def test_a_refused_reply_is_tried_again_and_nothing_behind_it_is_lost # SABIR-WORKER-6
    url = acl("worker", TestServer.url)
    user = @closing.last.name
    ran = Queue.new
    server = serve(url: url, threads: 1) { |it| it.register("run") { |n| (ran << n) && n } }
    @redis.call("ACL", "SETUSER", user, "-pexpire") # so MULTI is refused at its end, and the take behind it is not
    push(element("run", [1]), element("run", [2]))
    eventually("it says so") { @log.string.match?(/reply: .*EXECABORT|take: .*EXECABORT/) }
    assert_equal 2, hand(server).size + @redis.llen(keys.requests)
    @redis.call("ACL", "SETUSER", user, "+pexpire")
    assert_equal([1, 2], Array.new(2) { reply(seconds: 9)["body"]["result"] })
    eventually("an empty hand") { hand(server).empty? }
    assert_equal [1, 2], Array.new(ran.size) { ran.pop }
  end

  def test_a_reply_that_did_not_arrive_is_pushed_again
    link = proxy
    go = Queue.new
    server = serve(url: link.url) { |it| it.register("wait") { go.pop } }
    push(element("wait", []))
    eventually("it runs") { go.num_waiting == 1 }
    link.down
    go << "kept"
    eventually("it says so") { @log.string.match?(/reply: |take: /) }
    link.up
    assert_equal "kept", reply["body"]["result"]
    eventually("an empty hand") { hand(server).empty? }
  end

  def test_what_was_taken_for_a_connection_that_broke_is_run_once # SABIR-LOST-3
    %i[cut swallow].each do |how|
      link = proxy
      ran = Queue.new
      server = serve(url: link.url, threads: 2) { |it| it.register("run") { |n| (ran << n).size } }
      link.arm(/"run"/, how, from: :redis)
      push(element("run", [how.to_s]))
      link.fired
      assert reply(seconds: 9)
      assert_empty hand(server)
      server.stop
      assert_equal 1, ran.size
    end
  end

  def test_what_comes_while_it_stops_is_given_back # SABIR-STOP-3
    link = proxy
    ran = Queue.new
    server = serve(url: link.url) { |it| it.register("run") { ran << 1 } }
    link.arm(/"run"/, :hold, from: :redis)
    push(taken = element("run", []))
    link.fired
    assert_equal [taken], hand(server)
    stop = Thread.new { server.stop }
    eventually("it stops") { stop.status == "sleep" }
    link.release
    stop.join
    assert_equal [taken], @redis.lrange(keys.requests, 0, -1)
    assert_empty ran
    assert_nil @redis.zscore(keys.leases, server.worker)
  end

  def test_giving_back_happens_once
    link = proxy
    server = serve(url: link.url, threads: 1)
    @redis.rpush(keys.active(server.worker), taken = element)
    link.arm(/LMOVE.*RIGHT\r\n\$4\r\nLEFT/m, :cut)
    server.stop
    link.fired
    assert_equal [taken], @redis.lrange(keys.requests, 0, -1)
    assert_nil @redis.zscore(keys.leases, server.worker)
  end

  def test_a_worker_waits_for_redis_and_says_so_once
    link = proxy
    link.down
    server = Thread.new { serve(url: link.url) }
    eventually("it says so") { @log.string.include?("start: ") }
    sleep 0.3
    link.up
    push(element)
    assert reply
    assert_equal 2, @log.string.lines.size, @log.string
    server.value.stop
  end

  def test_a_stop_ends_a_worker_that_never_reached_redis
    server = Sabir::Server.new("calc", url: "redis://127.0.0.1:1/0", logger: Logger.new(@log))
    starting = Thread.new { server.start }
    eventually("it says so") { @log.string.include?("start: ") }
    server.stop
    assert_same server, starting.value
  end

  def test_ids_of_another_life_of_redis_are_left_alone # SABIR-LOST-3
    connection = Sabir::Connection.new(TestServer.url, nil, Sabir::Clock.new).tap { |it| @closing << it }
    connection.reopen(1)
    bystander = @redis.call("CLIENT", "ID")
    connection.instance_variable_set(:@id, bystander.to_s) # as after a restart: the address is another
    assert connection.reopen(1)
    assert_equal bystander, @redis.call("CLIENT", "ID")
    connection.instance_variable_set(:@id, nil)
    refute connection.reopen(1)
  end

  # The users of the specification's section 15 can do all that a client and a worker do.
  def test_the_users_of_the_specification
    link = proxy
    ran = Queue.new
    server = serve(url: acl("worker", link.url), name: "w") { |it| it.register("run") { |n| (ran << n).size } }
    mine = client(url: acl("web-1", link.url), name: "web-1")
    assert mine.call("calc", "run", [1])
    assert_raises(Sabir::NotQueued) { mine.call("other", "run", [1]) }
    mine.notify("calc", "run", [2])
    mine.notify("calc", "sub")
    eventually("a dead letter") { dead.size == 1 }
    link.down
    link.up
    sleep Sabir::Client::IDLE_S
    assert mine.call("calc", "run", [3])
    link.arm(/"run"/, :cut, from: :redis)
    assert mine.call("calc", "run", [4])
    server.stop
    assert_equal [1, 2, 3, 4], Array.new(ran.size) { ran.pop }.sort
    assert_empty @log.string.lines.grep(/NOPERM/)
  end

  private

  # @return [String] the URL for a user made from the specification's own line
  def acl(user, url)
    line = File.readlines(File.join(PROTOCOL, "spec.md")).grep(/ACL SETUSER (calc-)?#{user} /).first
    line = line.gsub("sabir:", "#{@namespace}:")
    _, _, _, *rules = line.split
    name = "#{@namespace}-#{user}"
    @redis.call("ACL", "SETUSER", name, *rules.map { |rule| rule.start_with?(">") ? ">secret" : rule })
    @closing << Struct.new(:redis, :name) { def close = redis.call("ACL", "DELUSER", name) }.new(@redis, name)
    url.sub("redis://", "redis://#{name}:secret@")
  end
end
