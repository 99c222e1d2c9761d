# frozen_string_literal: true

require "helper"

# Which parameters fit which handler [SABIR-BODY-4], and what JSON can hold.
class HandlerTest < Minitest::Test
  def fit(params, callable = nil, &block)
    handler = Sabir::Handler.new(callable || block)
    handler.call(*handler.fit(params))
  end

  def refused(params, callable = nil, &block)
    handler = Sabir::Handler.new(callable || block)
    assert_raises(Sabir::InvalidParams) { handler.fit(params) }
  end

  def test_positional
    assert_equal [1, 2], fit([1, 2]) { |a, b| [a, b] }
    assert_equal [1, 9], fit([1]) { |a, b = 9| [a, b] }
    assert_equal [1, [2, 3]], fit([1, 2, 3]) { |a, *rest| [a, rest] }
    assert_equal :none, fit(nil) { :none }
    [[], [1], [1, 2, 3], nil].each { |params| refused(params) { |a, b| [a, b] } }
    refused([1]) { :none }
  end

  def test_named
    assert_equal [1, 2], fit({ "b" => 2, "a" => 1 }) { |a, b| [a, b] }
    assert_equal [1, 2], fit({ "b" => 2, "a" => 1 }) { |a:, b:| [a, b] }
    assert_equal [1, 9], fit({ "a" => 1 }) { |a, b = 9| [a, b] }
    assert_equal [1, 9], fit({ "a" => 1 }) { |a:, b: 9| [a, b] }
    assert_equal [1, { x: 2 }], fit({ "a" => 1, "x" => 2 }) { |a, **more| [a, more] }
    assert_equal [1, 2, 9], fit({ "a" => 1, "c" => 2 }) { |a, b = 9, c| [a, c, b] }
    [{}, { "a" => 1 }, { "a" => 1, "c" => 2 }, { "a" => 1, "b" => 2, "c" => 3 }].each do |params|
      refused(params) { |a, b| [a, b] }
      refused(params) { |a:, b:| [a, b] }
    end
    refused({ "a" => 1, "c" => 3 }) { |a, b = 9, c = 9| [a, b, c] }
    refused({ "a" => 1 }) { |*rest| rest }
  end

  def test_keywords_by_position
    assert_equal [1, 2], fit([1, 2]) { |a:, b:| [a, b] }
    assert_equal [1, 2], fit([1, 2]) { |a, b:| [a, b] }
    refused([1]) { |a:, b:| [a, b] }
    refused([1, 2, 3]) { |a:, b:| [a, b] }
  end

  def test_a_block_takes_no_array_apart
    assert_equal [[1, 2], 9], fit([[1, 2]]) { |a, b = 9| [a, b] }
    assert_equal [[1, 2], []], fit([[1, 2]]) { |a, *rest| [a, rest] }
    refused([[1, 2]]) { |a, b| [a, b] }
  end

  def test_a_block_keeps_its_self
    assert_same self, fit([]) { self }
  end

  def test_anything_that_can_be_called
    assert_equal "ABC", fit(["abc"], :upcase.to_proc)
    assert_equal 3, fit([2], 1.method(:+))
    assert_equal 3, fit([1, 2], ->(a, b) { a + b })
    assert_equal 3, fit([1, 2], Class.new { def call(one, two) = one + two }.new)
    refused([1], ->(a, b) { a + b })
  end

  def test_registering
    server = Sabir::Server.new("calc")
    assert_same server, server.register("add") { |a, b| a + b }
    ["", "a b", "é", "rpc.x", "add", "m" * 129].each do |name|
      assert_raises(ArgumentError, name) { server.register(name) { nil } }
    end
    assert_raises(ArgumentError) { server.register("nothing") }
    assert_raises(NameError) { server.expose("text", only: %w[puts]) } # private
    assert_same server, server.expose("text", only: %w[upcase])
  end

  REFUSED = [Float::NAN, Float::INFINITY, :symbol, Time.at(0), 1r, 1i, Object, Struct.new(:a).new(1), 1..2,
             "\xFF", "\xFF".b, { 1 => 2 }, { nil => 1 }, { a: 1, "a" => 2 }, { "\xFF" => 1 }].freeze

  def test_what_json_has_not_is_refused # SABIR-JSON-1
    REFUSED.each do |value|
      error = assert_raises(ArgumentError, value.inspect) { encode([[value]]) }
      refute_includes error.message, "\xFF".inspect
    end
  end

  def test_what_json_has_is_sent_as_it_is
    encode([nil, true, 2**100, -0.5, 1e300, "é", "é".encode("UTF-16LE"), "a".b, { "a" => { b: [] } }])
    assert_equal ["é", { "a" => 1 }], JSON.parse(encode(["é".encode("ISO-8859-1"), { a: 1 }])).dig("body", "params")
  end

  def test_limits_are_checked_before_anything_is_sent # SABIR-LIMIT-1
    deep = ->(levels) { levels.zero? ? [] : [deep.call(levels - 1)] }
    encode(deep.call(61))
    assert_raises(Sabir::LimitExceeded) { encode(deep.call(62)) }
    assert_raises(Sabir::LimitExceeded) { encode(["x" * 1_048_576]) }
    loop_of_itself = []
    loop_of_itself << loop_of_itself
    assert_raises(Sabir::LimitExceeded) { encode(loop_of_itself) }
  end

  def encode(params) = Sabir::Messages.encode_request(id: "0" * 32, reply_to: "a.b", method: "m", params: params)

  # What JSON text may be made of, in one expression.
  STRICT = %r{\A(?>
    [\ \t\r\n\[\]\{\},:0-9A-Za-z+.-]+ |
    "(?>[^"\\\x00-\x1f]+ |
        \\["\\/bfnrt] | \\u(?![dD][89a-fA-F])\h{4} | \\u[dD][89abAB]\h\h\\u[dD][c-fC-F]\h\h)*+"
  )*+\z}x

  def test_json_is_strict # SABIR-JSON-2
    request = Sabir::Messages.encode_request(id: "0" * 32, method: "a/b", params: ["é\n\"\\", { "k" => 1.5 }])
    parts = ["/", "//", "/**/", "/* \" */", "// x\n", "\\", "\\n", "\\q", "\\/", "\"", "\n", "\t", "\f", "\0", "\x7f",
             "\u00a0", "\ufeff", "\xff", "\\ud800", "\\ud83d\\ude00", "\\u12", "\\u0000", "'", "01", "NaN", ",", " "]
    random = Random.new(1)
    seen = Array.new(20_000) do
      bytes = request.b
      random.rand(1..3).times { bytes.insert(random.rand(0..bytes.size), parts.sample(random: random).b) }
      refused = Sabir::Messages.decode_request(bytes).then { |it| it.respond_to?(:error) && it.error.code == -32_700 }
      assert_equal !strict?(bytes), refused, bytes.inspect
      refused
    end
    assert_operator seen.count(false), :>, 1_000
  end

  private

  def strict?(bytes)
    text = bytes.dup.force_encoding(Encoding::UTF_8)
    JSON.parse(text) && text.valid_encoding? && STRICT.match?(text)
  rescue JSON::ParserError, EncodingError
    false
  end
end
