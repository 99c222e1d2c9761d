# frozen_string_literal: true

require "helper"

# protocol/vectors: what every port reads and writes alike.
class VectorsTest < Minitest::Test
  V = Sabir::Messages

  def self.cases(file)
    JSON.parse(File.read(File.join(PROTOCOL, "vectors/#{file}.json"))).fetch("cases").each do |vector|
      define_method("test_#{file}: #{vector.fetch("name")}") { send("check_#{file}", vector) }
    end
  end

  %w[keys commands encode requests replies].each { |file| cases(file) }

  private

  def bytes(vector)
    return vector["base64"].unpack1("m") if vector.key?("base64")
    return vector["text"].b if vector.key?("text")

    vector["parts"].map { |part| part.is_a?(String) ? part : part["repeat"] * part["times"] }.join.b
  end

  def check_keys(vector)
    namespace, service, *names = vector["args"].values
    key = -> { Sabir::Keys.new(namespace, service).public_send(vector["key"], *names) }
    vector["expect"] ? assert_equal(vector["expect"], key.call) : assert_raises(ArgumentError, &key)
  end

  def check_commands(vector)
    namespace, service, *inputs = vector["input"].values
    inputs.unshift(Sabir::Keys.new(namespace, service)) unless %w[clock unwatch].include?(vector["step"])
    inputs[2] = inputs[2].to_h { |call| call.values_at("id", "element") } if vector["step"] == "judge"
    commands = -> { Sabir::Commands.public_send(vector["step"], *inputs) }
    vector["expect"] ? assert_equal(vector["expect"], commands.call) : assert_raises(ArgumentError, &commands)
  end

  def check_encode(vector)
    text = -> { encoded(vector["what"], vector["input"].transform_keys(&:to_sym)) }
    return assert_raises(ArgumentError, &text) unless vector["expect"]

    assert_equal vector["expect"], JSON.parse(text.call)
  end

  def encoded(what, input)
    return V.encode_request(**input) if what == "request"
    return V.encode_result(**input) if what == "result"
    return V.encode_error(**input) if what == "error"

    element = input.key?(:base64) ? input.delete(:base64).unpack1("m") : input.delete(:text)
    V.encode_dead_letter(element: element, **input)
  end

  def check_requests(vector)
    expected = vector["expect"]
    element = bytes(vector).freeze
    request = V.decode_request(element)
    case expected["kind"]
    when "call", "notification" then check_request(expected, request)
    when "answered"
      assert_equal expected.values_at("id", "reply_to", "code"), [request.id, request.reply_to, request.error.code]
    when "dead letter"
      assert_nil request.reply_to
      assert_equal expected["code"], request.error.code
    else check_open(element)
    end
  end

  def check_request(expected, request)
    seen = request.to_h.transform_keys { |name| name.to_s.delete_suffix("_name") }
    assert_equal expected["kind"], request.reply_to ? "call" : "notification"
    (expected.keys - ["kind"]).each { |name| assert_equal [name, expected[name]], [name, seen.fetch(name)] }
    assert_nil request.params unless expected.key?("params") || request.params
  end

  # SABIR-JSON-4
  def check_open(element)
    server = Sabir::Server.new("calc", logger: Logger.new(nil)).register("add") { |*values| values }
    clock = Sabir::Clock.new.tap { |it| it.set([1_764_000_000, 0]) }
    outcome = server.dispatcher.process(element, "w.1", clock) { 0 }
    assert outcome.reply || outcome.letter
  end

  def check_replies(vector)
    expected = vector["expect"]
    reply = V.decode_reply(bytes(vector))
    return assert_nil(reply) if expected["kind"] == "unreadable"

    assert_equal expected["id"], reply.id
    case expected["kind"]
    when "result" then check_result(expected, reply)
    when "invalid" then assert_instance_of Sabir::InvalidReply, reply.error
    else
      seen = [reply.error.class.name.split("::").last, reply.error.code, reply.error.message, reply.error.data]
      assert_equal expected.values_at("name", "code", "message", "data"), seen
    end
  end

  def check_result(expected, reply)
    assert_nil reply.error
    assert_equal [expected["result"]], [reply.result] if expected.key?("result")
  end
end
