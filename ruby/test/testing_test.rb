# frozen_string_literal: true

require "helper"

# The double does what the real ones do, without a Redis.
class TestingTest < Minitest::Test
  def setup
    server = Sabir::Server.new("calc", logger: Logger.new(nil))
    server.register("add") { |a, b| a + b }
    server.register("poor") { raise Sabir::ApplicationError.new("poor", code: 1001, data: 1) }
    server.register("who") { Sabir.context.then { |context| [context.caller, context.worker, context.time_left] } }
    server.register("time") { Time.now }
    @client = Sabir::Testing::Client.new(server, name: "me")
    @calc = @client.service("calc")
  end

  def test_calls_and_their_errors
    assert_equal [3, 3], [@calc.add(1, 2), @calc.add(a: 1, b: 2)]
    error = assert_raises(Sabir::ApplicationError) { @calc.poor }
    assert_equal [1001, 1], [error.code, error.data]
    assert_raises(Sabir::InvalidParams) { @calc.add(1) }
    assert_raises(Sabir::MethodNotFound) { @calc.sub(1) }
    assert_raises(Sabir::InvalidResult) { @calc.time }
    assert_raises(ArgumentError) { @calc.add(:one, 2) }
    assert_raises(Sabir::ServiceUnavailable) { @client.call("other", "add") }
    assert_raises(Sabir::ServiceUnavailable) { @client.wait_for_service("other") }
    assert_nil @client.wait_for_service("calc")
    assert_equal 3, @client.retry("calc", "add", [1, 2])
    assert_equal ["me", "testing.1"], @calc.who.first(2)
    assert_operator @calc.who.last, :<=, 30
  end

  def test_many_and_notifications
    results = @client.many("calc", [["add", [1, 2]], ["sub"]])
    assert_equal [3, Sabir::MethodNotFound], [results.first, results.last.class]
    assert_equal 32, @client.notify("calc", "add", [1, 2]).size
    assert_empty @client.dead
    @client.notify("calc", "add", [1])
    assert_equal(-32_602, @client.dead.first["error"]["code"])
  end
end
