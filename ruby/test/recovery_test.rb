# frozen_string_literal: true

require "helper"

# What becomes of a lost worker's hand, and of a worker that lost its lease.
class RecoveryTest < LiveTest
  def test_the_scripts_are_those_of_the_protocol # byte for byte
    gem = Dir.chdir(ROOT) { Gem::Specification.load("sabir.gemspec") }
    %w[heartbeat goodbye].each do |name|
      copy = File.join(ROOT, "lib/sabir/scripts/#{name}.lua")
      assert_equal File.binread(File.join(PROTOCOL, "scripts/#{name}.lua")), File.binread(copy)
      assert_includes Sabir::Commands::SCRIPTS.values, File.binread(copy)
      assert_includes gem.files, "lib/sabir/scripts/#{name}.lua"
    end
  end

  def test_nobody_judges_before_everybody_could_renew # SABIR-RECOVER-7
    grace = Sabir::GracePeriod.new
    refute grace.over?(100)
    [100, 103, 106, 109].each { |sent| grace.answered(sent, lost: sent == 100) }
    refute grace.over?(109.9)
    assert grace.over?(110)
    assert grace.over?(113)
    refute grace.over?(113.1) # more than 4 s since the last one
    grace.answered(113.1, lost: false)
    [117.1, 121.1].each { |sent| grace.answered(sent, lost: false) }
    refute grace.over?(123)
    assert grace.over?(123.1)
    grace.answered(124, lost: true) # Redis has lost something: it was away, however short
    grace.answered(128, lost: false)
    refute grace.over?(130)
    grace.answered(132, lost: false)
    assert grace.over?(134)
  end

  def test_what_the_heartbeat_recovers # SABIR-RECOVER-1 to -4, -6
    call = element
    again = element(idempotent: true)
    lose(element(idempotent: true, deadline: 1, reply_to: "test.2"), element(reply_to: nil), again, call)
    heartbeat.beat
    assert_equal [again], @redis.lrange(keys.requests, 0, -1)
    assert_equal "1", @redis.get(keys.attempts(JSON.parse(again)["id"]))
    answer = reply
    assert_equal [JSON.parse(call)["id"], -32_005], [answer["id"], answer["body"]["error"]["code"]]
    assert_equal(-32_005, reply("test.2")["body"]["error"]["code"])
    assert_equal([-32_005], dead.map { |letter| letter["error"]["code"] })
    assert_equal ["judge.1"], @redis.zrange(keys.leases, 0, -1) # SABIR-RECOVER-8
    assert_match(/WARN.* recovered 4 requests/, @log.string)
  end

  def test_more_to_recover_is_recovered_soon # SABIR-RECOVER-9
    lose(*Array.new(1_500) { element(idempotent: true) })
    heart = heartbeat
    assert_operator heart.beat, :<=, 0.5
    assert_equal 1_000, @redis.llen(keys.requests)
    assert_includes 2.0..3.0, heart.beat
    assert_equal 1_500, @redis.llen(keys.requests)
  end

  def test_who_may_not_judge_recovers_nothing # SABIR-RECOVER-7
    lose(element)
    heartbeat(grace: Sabir::GracePeriod.new).beat
    assert_equal 1, @redis.llen(keys.active("lost.1"))
    assert_in_delta (@redis.time.first + 10) * 1000, @redis.zscore(keys.leases, "judge.1"), 2_000
  end

  def test_a_script_that_redis_does_not_know_is_sent # SABIR-SCRIPT-1
    heart = heartbeat
    @redis.script(:flush)
    assert_operator heart.beat, :>, 2
    server = serve
    @redis.script(:flush)
    server.stop
    assert_nil @redis.zscore(keys.leases, server.worker)
    assert_empty @log.string
  end

  def test_a_recovered_call_is_run_by_somebody_else # SABIR-RECOVER-2, SABIR-ATTEMPT-2
    serve { |server| server.register("attempt") { Sabir.context.attempt } }
    mine = client(timeout: 20)
    assert_equal 1, mine.call("calc", "attempt")
    assert_equal 1, mine.call("calc", "attempt", idempotent: true)
    @redis.del(keys.requests)
    lose(element("attempt", [], idempotent: true), element("attempt", [], reply_to: "test.2"))
    heartbeat.beat
    assert_equal 2, reply["body"]["result"]
    assert_equal(-32_005, reply("test.2")["body"]["error"]["code"])
  end

  def test_the_third_lost_delivery_is_the_last # SABIR-RECOVER-5
    poison = element(idempotent: true)
    heart = heartbeat
    2.times do |n|
      lose(poison, worker: "lost.#{n}")
      heart.beat
      assert_equal poison, @redis.lpop(keys.requests)
    end
    lose(poison, worker: "lost.3")
    heart.beat
    assert_equal 0, @redis.llen(keys.requests)
    assert_equal(-32_005, reply["body"]["error"]["code"])
    assert_equal poison, dead.first["element"]
  end

  def test_never_started_is_not_said_of_what_was_delivered_before # SABIR-ATTEMPT-1
    serve
    refused = [element("sub", [], idempotent: true), element("add", [1], idempotent: true),
               element(deadline: 1, idempotent: true), element("sub", [], idempotent: true, reply_to: nil)]
    refused.each { |bytes| @redis.set(keys.attempts(JSON.parse(bytes)["id"]), "1") }
    push(*refused)
    assert_equal([-32_005] * 3, Array.new(3) { reply["body"]["error"]["code"] })
    eventually("a dead letter") { dead.any? }
    assert_equal(-32_005, dead.first["error"]["code"])
    @redis.set(keys.attempts(JSON.parse(ran = element("echo", [7], idempotent: true))["id"]), "2")
    push(ran, element("sub", []), element("sub", [], idempotent: true))
    assert_equal([7, -32_601, -32_601], Array.new(3) { reply["body"] }.map { |it| it["result"] || it["error"]["code"] }
                                                                     .sort.rotate(-1))
  end

  def test_attempts_of_another_type_hold_nobody_up # SABIR-WORKER-6
    serve
    @redis.rpush(keys.attempts(JSON.parse(bytes = element(idempotent: true))["id"]), "1")
    push(bytes)
    assert_equal 3, reply["body"]["result"]
  end

  def test_what_others_have_recovered_is_not_started # SABIR-LEASE-3
    %w[robbed kept].each do |fate|
      link = proxy
      ran = Queue.new
      server = serve(url: link.url, threads: 1) { |it| it.register("run") { |n| (ran << n).size } }
      link.arm(/"run"/, :hold, from: :redis)
      push(bytes = element("run", [fate]))
      link.fired
      assert_equal [bytes], hand(server)
      @redis.del(keys.active(server.worker)) if fate == "robbed"
      @redis.zrem(keys.leases, server.worker)
      server.instance_variable_get(:@heartbeat).beat # finds that the lease has ended
      link.release
      push(element("run", ["next"], reply_to: "test.next"))
      assert reply("test.next")
      assert_equal (fate == "robbed" ? %w[next] : %w[kept next]), Array.new(ran.size) { ran.pop }
      assert_empty hand(server)
      assert_match(/the lease of #{server.worker} had ended/, @log.string)
      server.stop
    end
    assert_equal 1, @redis.llen(keys.reply("test.1"))
    assert_match(/was not started has been recovered/, @log.string)
  end

  def test_after_a_pause_the_hand_is_read # SABIR-LEASE-3
    hand = Sabir::Hand.new(keys, "w.1", Sabir::Trying.new(Logger.new(@log)), Logger.new(@log)) { 0 }
    line = Sabir::Connection.new(TestServer.url, nil, Sabir::Clock.new).tap { |it| @closing << it }
    @redis.rpush(keys.active("w.1"), "kept")
    kept, robbed = hand.taking { %w[kept robbed] }
    assert hand.fresh?(kept)
    [kept, robbed].each { |taken| taken.sent -= 11 }
    refute hand.fresh?(kept)
    refute hand.lost?(line, kept)
    assert hand.fresh?(kept)
    assert hand.lost?(line, robbed)
    hand.give_back(line, [hand.taking { ["robbed too"] }.first.tap { |taken| taken.sent -= 11 }])
    assert_equal ["kept"], @redis.lrange(keys.active("w.1"), 0, -1) # nobody else's element was given back
  end

  def test_the_last_worker_takes_alive_along # SABIR-STOP-5
    first = serve
    second = serve
    first.stop
    assert_equal 1, @redis.exists(keys.alive)
    second.stop
    assert_equal 0, @redis.exists(keys.alive)
  end

  def test_a_live_worker_recovers # SABIR-RECOVER-1
    Sabir::GracePeriod.stub(:new, ALWAYS) { serve }
    lose(element(idempotent: true))
    assert_equal 3, reply(seconds: 8)["body"]["result"]
  end

  def test_a_redis_that_evicts_is_warned_of # SABIR-TRANSPORT-5
    skip("not on a server that others use") if ENV.key?("SABIR_TEST_REDIS_URL")
    serve(service: "calm")
    assert_empty @log.string
    @redis.config(:set, "maxmemory-policy", "allkeys-lru")
    serve
    assert_match(/expected the eviction policy noeviction, got allkeys-lru/, @log.string)
  ensure
    @redis.config(:set, "maxmemory-policy", "noeviction")
  end
end
