# frozen_string_literal: true

require "helper"

# Calls that nobody serves, queues that are too long, replies that are not lost, and calls that are sent again.
class AliveTest < LiveTest
  # ---- Nobody serves ----

  def test_a_call_that_nobody_serves_fails_at_once # SABIR-ALIVE-1, -2
    started = Sabir::Clock.monotonic
    error = assert_raises(Sabir::ServiceUnavailable) { client.call("calc", "add", [1, 2]) }
    assert_operator Sabir::Clock.monotonic - started, :<, 0.5
    assert_equal ["no worker serves calc", "never started", true], [error.message, error.outcome, error.retryable?]
    assert_equal [Sabir::ServiceUnavailable] * 2, client.many("calc", [["add", [1, 2]], ["add", [2, 3]]]).map(&:class)
    assert_equal 0, @redis.exists(keys.requests)
  end

  def test_the_wait_may_be_under_way_already # SABIR-ALIVE-2
    server = serve
    mine = client
    2.times { assert_equal 3, mine.call("calc", "add", [1, 2]) }
    server.stop
    started = Sabir::Clock.monotonic
    3.times { assert_raises(Sabir::ServiceUnavailable) { mine.call("calc", "add", [1, 2]) } }
    assert_operator Sabir::Clock.monotonic - started, :<, 0.5
    assert_equal 0, @redis.exists(keys.requests)
    serve
    2.times { assert_equal 3, mine.call("calc", "add", [1, 2]) }
  end

  def test_what_a_worker_has_already_is_waited_for # SABIR-ALIVE-2
    taking = Thread.new { Redis.new(url: TestServer.url).blpop(keys.requests, timeout: 5).last }
    eventually("it takes") { @redis.info("clients")["blocked_clients"].to_i.positive? }
    call = Thread.new { client.call("calc", "add", [1, 2]) }
    answer(taking.value, "late")
    assert_equal "late", call.value
  end

  def test_one_that_was_delivered_before_may_have_run # SABIR-ALIVE-2
    link = proxy
    link.arm(/RPUSH/, :hold)
    call = Thread.new { client(url: link.url).many("calc", [["add", [1, 2]], ["add", [2, 3]]], idempotent: true) }
    link.fired
    first, = eventually("the requests") { @redis.lrange(keys.requests, 0, -1).then { |all| all if all.any? } }
    @redis.set(keys.attempts(JSON.parse(first)["id"]), "1")
    link.release
    assert_equal [Sabir::WorkerLost, Sabir::ServiceUnavailable], call.value.map(&:class)
    assert_equal 0, @redis.exists(keys.requests)
  end

  def test_a_notification_waits_for_a_worker # SABIR-ALIVE-7
    client.notify("calc", "add", [1, 2])
    assert_equal 1, @redis.llen(keys.requests)
  end

  def test_a_take_back_without_an_answer_is_not_repeated # SABIR-ALIVE-6
    %i[cut swallow].each do |how|
      link = proxy
      link.arm(/LREM/, how)
      calls = client(url: link.url).many("calc", [["add", [1, 2]], ["add", [2, 3]]], timeout: 3)
      link.fired
      assert_equal [Sabir::ConnectionLost] * 2, calls.map(&:class)
      assert_equal 0, @redis.exists(keys.requests)
    end
  end

  # ---- Nobody serves any more ----

  ENDS = { "queued" => Sabir::ServiceUnavailable, "taken" => Sabir::WorkerLost, "delivered" => Sabir::WorkerLost,
           "long" => Sabir::WorkerLost, "back" => Sabir::CallTimeout, "interrupted" => Sabir::CallTimeout }.freeze

  def test_how_calls_end_whose_worker_is_lost # SABIR-ALIVE-3, -4
    links = { "interrupted" => proxy, "back" => proxy }
    calls = ENDS.keys.to_h { |service| [service, a_call_that_waits(service, links[service])] }
    lists = ENDS.keys.to_h { |service| [service, keys(service)] }
    prepare(lists)
    links["interrupted"].down
    links["interrupted"].up
    @redis.del(*lists.values.map(&:alive))
    started = Sabir::Clock.monotonic
    links["back"].arm(/EXISTS/, :hold)
    links["back"].fired
    alive!("back")
    links["back"].release
    ended = calls.transform_values(&:value)
    assert_equal(ENDS, ended.transform_values { |error, _| error.class }) # SABIR-ALIVE-5
    assert_operator ended.except(*links.keys).values.map(&:last).max - started, :<, 3.5
    left = lists.values_at("queued", "delivered", "long", "interrupted").map { |them| @redis.llen(them.requests) }
    assert_equal [0, 0, 10_002, 1], left
  end

  def test_a_reply_that_is_there_counts # SABIR-ALIVE-4
    alive!
    link = proxy
    call = Thread.new { ended { client(url: link.url).many("calc", [["add"], ["add"]], timeout: 8) } }
    first, = eventually("the requests") { @redis.lrange(keys.requests, 0, -1).then { |all| all if all[1] } }
    @redis.del(keys.alive, keys.requests)
    link.arm(/EXISTS/, :hold)
    link.fired
    answer(first, "there") # behind the look, in front of the transaction
    link.release
    assert_equal ["there", Sabir::WorkerLost], [call.value.first.first, call.value.first.last.class]
  end

  def test_a_judgement_without_an_answer # SABIR-ALIVE-6
    alive!
    link = proxy
    call = Thread.new { ended { client(url: link.url).call("calc", "add", timeout: 8) } }
    eventually("the request") { @redis.del(keys.alive) if @redis.exists(keys.requests).positive? }
    link.arm(/MULTI/, :cut)
    assert_instance_of Sabir::ConnectionLost, call.value.first
    assert_equal 0, @redis.exists(keys.requests)
  end

  def test_a_client_that_may_not_ask_goes_on # as one of the profile core
    serve
    name = "#{@namespace}-shy"
    @redis.call("ACL", "SETUSER", name, "on", ">secret", "~*", "+@all", "-exists", "-watch", "-lrem")
    mine = client(url: TestServer.url.sub("redis://", "redis://#{name}:secret@"), max_queue: 1)
    2.times { assert_equal 3, mine.call("calc", "add", [1, 2]) }
    assert_match(/NOPERM/, assert_raises(Sabir::NotQueued) { mine.wait_for_service("calc") }.message)
    2.times { mine.notify("other", "add") }
    assert_equal 2, @redis.llen(keys("other").requests)
  ensure
    @redis.call("ACL", "DELUSER", name)
  end

  # ---- The bound of the queue ----

  def test_over_the_bound_requests_are_taken_back # SABIR-QUEUE-1
    alive!
    @redis.rpush(keys.requests, "x")
    mine = client(max_queue: 2)
    assert_raises(Sabir::CallTimeout) { mine.call("calc", "add", [1, 2], timeout: 0.1) }
    2.times do
      error = assert_raises(Sabir::Overloaded) { mine.call("calc", "add", [1, 2]) }
      assert_equal ["the queue of calc is longer than 2", "never started", true],
                   [error.message, error.outcome, error.retryable?]
    end
    assert_raises(Sabir::Overloaded) { mine.notify("calc", "add") }
    assert_equal [Sabir::Overloaded] * 2, mine.many("calc", [["add"], ["add"]]).map(&:class)
    @redis.del(keys.alive)
    assert_raises(Sabir::Overloaded) { mine.call("calc", "add", [1, 2]) } # it counts more
    assert_equal 2, @redis.llen(keys.requests)
    client(max_queue: nil).notify("calc", "add")
    assert_equal 3, @redis.llen(keys.requests)
    [0, -1, 1.5, "1", true].each { |bound| assert_raises(ArgumentError) { Sabir::Client.new(max_queue: bound) } }
  end

  def test_of_many_those_that_a_worker_has_are_waited_for # SABIR-QUEUE-1
    alive!
    link = proxy
    link.arm(/RPUSH/, :hold)
    calls = Thread.new { client(url: link.url, max_queue: 1).many("calc", [["add", [1]], ["add", [2]]]) }
    link.fired
    taken = eventually("the requests") { @redis.lpop(keys.requests) }
    link.release
    eventually("the other one is taken back") { @redis.exists(keys.requests).zero? }
    answer(taken, "mine")
    assert_equal ["mine", Sabir::Overloaded], [calls.value.first, calls.value.last.class]
  end

  # ---- Replies ----

  def test_a_reply_is_read_again_after_its_connection_broke # SABIR-WAIT-1
    serve
    link = proxy
    mine = client(url: link.url)
    3.times do
      link.arm(/"result"/, :cut, from: :redis)
      assert_equal 3, mine.call("calc", "add", [1, 2])
      link.fired
    end
  end

  def test_replies_that_were_read_are_removed # SABIR-WAIT-2
    serve
    mine = client
    assert_equal (0..9).map { |n| n + 1 }, mine.many("calc", (0..9).map { |n| ["add", [n, 1]] })
    assert_equal 1, lists.size
    assert_equal 3, mine.call("calc", "add", [1, 2])
    assert_equal 1, lists.size
    mine.notify("calc", "echo", [1])
    assert_empty lists
    mine.call("calc", "add", [1, 2])
    mine.close
    eventually("none is left") { lists.empty? }
  end

  # ---- Again ----

  def test_a_call_is_sent_again # SABIR-RETRY-1
    mine = client
    call = Thread.new { mine.retry("calc", "add", [1, 2]) }
    eventually("it pauses") { call.status == "sleep" }
    go = Queue.new
    serve do |server|
      server.register("lost") { |n| n == go.push(n).size ? 7 : raise("no") }
    end
    assert_equal 3, call.value
    assert_raises(Sabir::MethodNotFound) { mine.retry("calc", "sub") }
    assert_raises(Sabir::InternalError) { mine.retry("calc", "lost", [9], idempotent: true) }
    assert_equal 1, go.size
  end

  def test_what_may_have_run_is_sent_again_if_it_is_idempotent # SABIR-RETRY-1
    alive!
    ids = Queue.new
    worker = Thread.new do
      redis = Redis.new(url: TestServer.url)
      while (element = redis.blpop(keys.requests, timeout: 5)&.last)
        ids << JSON.parse(element)["id"]
        fail_with_worker_lost(redis, element)
      end
    end
    assert_raises(Sabir::WorkerLost) { client.retry("calc", "add") }
    assert_equal 1, ids.size
    assert_raises(Sabir::WorkerLost) { client.retry("calc", "add", idempotent: true, timeout: 0.5) }
    assert_includes 3..7, ids.size # pauses of 50, 100, 200 ms, and halves of what is left
    assert_equal ids.size, Array.new(ids.size) { ids.pop }.tap { |all| all.each { |id| ids << id } }.uniq.size
  ensure
    worker.kill
  end

  def test_retrying_ends_in_time # SABIR-RETRY-1, SABIR-CALL-2
    started = Sabir::Clock.monotonic
    assert_raises(Sabir::ServiceUnavailable) { client.retry("calc", "add", timeout: 0.5) }
    assert_operator Sabir::Clock.monotonic - started, :<, 0.6
    assert_equal 0, @redis.exists(keys.requests)
  end

  def test_a_look_that_the_end_cuts_short_decides_nothing
    link = proxy
    asked = -> { @redis.info("commandstats").dig("exists", "calls").to_i }
    begin_with = asked.call
    waiting = Thread.new { client(url: link.url).wait_for_service("calc", timeout: 1) }
    waiting.report_on_exception = false
    eventually("it has asked") { asked.call > begin_with + 1 }
    link.arm(/EXISTS/, :swallow)
    assert_match(/no worker serves calc/, assert_raises(Sabir::ServiceUnavailable) { waiting.value }.message)
  end

  def test_waiting_for_a_service
    mine = client
    waiting = Thread.new { mine.wait_for_service("calc", timeout: 5) }
    eventually("it pauses") { waiting.status == "sleep" }
    serve
    assert_nil waiting.value
    assert_raises(Sabir::ServiceUnavailable) { mine.wait_for_service("other", timeout: 0.1) }
    assert_raises(Sabir::NotQueued) { client(url: "redis://127.0.0.1:1/0").wait_for_service("calc", timeout: 0.1) }
    assert_raises(ArgumentError) { mine.wait_for_service("a}") }
    assert_raises(ArgumentError) { mine.wait_for_service("calc", timeout: 0) }
  end

  private

  def a_call_that_waits(service, link)
    alive!(service)
    mine = client(url: link ? link.url : TestServer.url, timeout: 5)
    Thread.new { ended { mine.call(service, "add", [1, 2], idempotent: service == "delivered") } }
  end

  def prepare(lists)
    eventually("the requests") { lists.values.all? { |them| @redis.exists(them.requests).positive? } }
    @redis.lpop(lists["taken"].requests)
    delivered = JSON.parse(@redis.lindex(lists["delivered"].requests, 0))
    @redis.set(lists["delivered"].attempts(delivered["id"]), "1")
    @redis.lpush(lists["long"].requests, ["x"] * 10_001)
  end

  def lists = @redis.keys("#{keys.reply("client.x").delete_suffix(".x")}.*")

  # @return [Array(Object, Float)] the error or the result, and when
  def ended
    [yield, Sabir::Clock.monotonic]
  rescue Sabir::SabirError => e
    [e, Sabir::Clock.monotonic]
  end

  # A worker played by hand.
  def answer(element, result)
    id, token = JSON.parse(element).values_at("id", "reply_to")
    @redis.rpush(keys.reply(token), Sabir::Messages.encode_result(id: id, worker: "w.1", result: result))
  end

  def fail_with_worker_lost(redis, element)
    id, token = JSON.parse(element).values_at("id", "reply_to")
    redis.rpush(keys.reply(token), Sabir::Messages.encode_error(id: id, worker: "w.1", code: -32_005, message: "lost"))
  end
end
