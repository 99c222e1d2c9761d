# frozen_string_literal: true

require "json"

module Sabir
  # The envelope and its body: bytes to values and back. Pure.
  module Messages
    VERSION = 1 # of the envelope
    MAX_BYTES = 1_048_576 # of an element, unless configured
    MAX_DEPTH = 64 # levels of an element, unless configured
    KEPT = 16_777_216 # bytes of an element in a dead letter
    REPLY_DEPTH = 1_000 # the worker keeps the limits of a reply; this one is for the parser's sake
    MAX_INTEGER = (2**53) - 1
    ENVELOPE = 2 # levels around params, a result and an error
    TRACEPARENT = /\A[ -~]{1,512}\z/
    TRACE = "1 to 512 printable ASCII characters"

    # What RFC 8259 has outside of strings, the escapes that it has in them (no lone surrogates), and what neither may
    # hold: JSON.parse lets more pass (comments, other escapes, other white space) [SABIR-JSON-2].
    OUTSIDE = /\A[ \t\r\n\[\]{},:0-9A-Za-z+.-]*\z/n
    ESCAPE = %r{\\(?:["\\/bfnrt]|u(?![dD][89a-fA-F])\h{4}|u[dD][89abAB]\h\h\\u[dD][c-fC-F]\h\h)}n
    CONTROL = "\x00-\x1f"

    # Whether the parser lets control characters pass, in strings or as white space: none is known that does.
    PASSES_CONTROL = Array.new(32, &:chr).flat_map { |c| [%(["#{c}"]), "[1#{c.tr("\t\n\r", "\f")}]"] }.any? do |text|
      JSON.parse(text)
    rescue JSON::ParserError
      false
    end

    # Writes text; may be shared, as it holds nothing of a value.
    WRITER = JSON::State.new(max_nesting: 0)

    # The start of an element that is over a limit [SABIR-LIMIT-3].
    HEAD = /\A[ \t\r\n]*\{([ \t\r\n]*"(v|id|reply_to)"[ \t\r\n]*:
              [ \t\r\n]*("[A-Za-z0-9_.-]{0,128}"|[0-9]{1,15})[ \t\r\n]*,){2,3}/nx

    # A valid request. reply_to is nil in a notification, deadline (ms of Redis's clock) where there is none,
    # params where it has none.
    Request = Struct.new(:id, :reply_to, :deadline, :idempotent, :traceparent, :method_name, :params,
                         keyword_init: true)

    # An element that is not run: the error, and to whom it is answered; id and reply_to are nil where it can't be.
    Rejection = Struct.new(:error, :id, :reply_to)

    # A reply with a readable id: a result, or the error that the call ends with.
    Reply = Struct.new(:id, :result, :error)

    module_function

    # @param reply_to [String, nil] nil: a notification
    # @param deadline [Integer, nil] ms of Redis's clock; nil: never expires
    # @return [String] an element [SABIR-ENVELOPE-1]
    # @raise [ArgumentError] the method's name is outside its grammar, or a value can't be written as JSON
    # @raise [LimitExceeded] [SABIR-LIMIT-1]
    def encode_request(id:, method:, params: nil, reply_to: nil, deadline: nil, idempotent: false, traceparent: nil,
                       max_bytes: MAX_BYTES, max_depth: MAX_DEPTH)
      Keys.check(:method, method)
      expect("params", "an Array or a Hash", params) { params.nil? || params.is_a?(Array) || params.is_a?(Hash) }
      expect("traceparent", TRACE, traceparent) { traceparent.nil? || traceparent?(traceparent) }
      inner = json(:params, params, max_depth - ENVELOPE)
      head = %({"v":#{VERSION},"id":"#{id}") # first [SABIR-ENVELOPE-5]
      head << %(,"reply_to":"#{reply_to}") if reply_to
      head << %(,"deadline":#{deadline}) if deadline
      head << %(,"idempotent":true) if idempotent
      head << %(,"traceparent":#{WRITER.generate(traceparent)}) if traceparent
      head << %(,"body":{"jsonrpc":"2.0",#{%("id":"#{id}",) if reply_to}"method":#{WRITER.generate(method)})
      bounded(params ? %(#{head},"params":#{inner}}}) : "#{head}}}", max_bytes)
    end

    # @return [String] an element of a reply list
    # @raise [ArgumentError, LimitExceeded] the result can't be written as JSON, or the reply is over a limit
    def encode_result(id:, worker:, result:, max_bytes: MAX_BYTES, max_depth: MAX_DEPTH)
      bounded(response(id, worker, "result", json(:result, result, max_depth - ENVELOPE)), max_bytes)
    end

    # @param data [Object, nil] nil: none
    # @return [String] an element of a reply list
    # @raise [ArgumentError, LimitExceeded] the data can't be written as JSON, or the reply is over a limit
    def encode_error(id:, worker:, code:, message:, data: nil, max_bytes: MAX_BYTES, max_depth: MAX_DEPTH)
      error = { code: code, message: message, data: data }.compact
      bounded(response(id, worker, "error", json(:error, error, max_depth - ENVELOPE)), max_bytes)
    end

    # @param at [Integer] ms of Redis's clock
    # @param element [String] the bytes that were read
    # @return [String] a dead letter
    # @raise [ArgumentError, LimitExceeded] the data can't be written as JSON
    def encode_dead_letter(at:, worker:, code:, message:, element:, data: nil)
      cut = element.bytesize > KEPT # [SABIR-DEAD-5]
      text = utf8(element) unless cut
      held = text&.valid_encoding? ? { element: text } : { element_base64: [element.byteslice(0, KEPT)].pack("m0") }
      held[:size] = element.bytesize if cut
      error = { code: code, message: message, data: data }.compact
      json(nil, { v: VERSION, at: at, worker: worker, error: error, **held }, MAX_DEPTH)
    end

    # @param bytes [String] an element as it was read; stays as it is
    # @return [Request, Rejection]
    def decode_request(bytes, max_bytes: MAX_BYTES, max_depth: MAX_DEPTH)
      return over_limit(bytes, "#{bytes.bytesize} bytes, limit #{max_bytes}") if bytes.bytesize > max_bytes

      envelope = parse(bytes, max_depth)
      return Rejection.new(InvalidRequest.new("expected an object")) unless envelope.is_a?(Hash)

      id, reply_to = envelope.values_at("id", "reply_to")
      return Rejection.new(InvalidRequest.new("id: expected 32 hexadecimal digits")) unless Keys.valid?(:id, id)
      if envelope.key?("reply_to") && !Keys.valid?(:token, reply_to) # [SABIR-TOKEN-2]
        return Rejection.new(InvalidRequest.new("reply_to: expected a token"))
      end

      error = fault(envelope)
      error ? Rejection.new(error, id, reply_to) : request(envelope)
    rescue JSON::ParserError, EncodingError
      return over_limit(bytes, "nested deeper than #{max_depth} levels") if deeper_than?(max_depth, bytes)

      Rejection.new(ParseError.new("not JSON (RFC 8259) in UTF-8"))
    end

    # @param own [Hash{Integer => Class}] the application's error classes by their codes
    # @return [Reply, nil] one with an {InvalidReply} if it is invalid [SABIR-REPLY-5]; nil: no id can be read in it
    def decode_reply(bytes, own: {})
      envelope = parse(bytes, REPLY_DEPTH)
      id = envelope["id"] if envelope.is_a?(Hash)
      return unless Keys.valid?(:id, id)

      invalid = reply_fault(envelope)
      return Reply.new(id, nil, InvalidReply.new(invalid)) if invalid

      result, error = envelope["body"].values_at("result", "error")
      error &&= Errors.build(integer(error["code"]), error["message"], error["data"], own: own)
      Reply.new(id, result, error)
    rescue JSON::ParserError, EncodingError
      nil
    end

    # @return [SabirError, nil] what is wrong with an envelope whose id and reply_to are valid
    def fault(envelope)
      version = integer(envelope["v"])
      return UnsupportedVersion.new("v: expected #{VERSION}, got #{version}") if version && version > VERSION

      message = version == VERSION ? envelope_fault(envelope) || body_fault(envelope) : "v: expected 1"
      message && InvalidRequest.new(message)
    end

    def envelope_fault(envelope)
      deadline, idempotent, traceparent = envelope.values_at("deadline", "idempotent", "traceparent")
      if envelope.key?("deadline") && !integer(deadline)&.positive? then "deadline: expected an integer > 0"
      elsif envelope.key?("idempotent") && ![true, false].include?(idempotent) then "idempotent: expected a boolean"
      elsif envelope.key?("traceparent") && !traceparent?(traceparent) then "traceparent: expected #{TRACE}"
      elsif !envelope["body"].is_a?(Hash) then "body: expected an object"
      end
    end

    def body_fault(envelope)
      body = envelope["body"]
      return 'body.jsonrpc: expected "2.0"' unless body["jsonrpc"] == "2.0"
      return "body.method: expected 1 to 128 printable ASCII characters" unless Keys.valid?(:method, body["method"])
      return "body.params: expected an array or an object" unless [Array, Hash].include?(body.fetch("params", []).class)

      if envelope.key?("reply_to")
        "body.id: expected the envelope's id" unless body["id"] == envelope["id"]
      elsif body.key?("id")
        "reply_to: expected a token, as body.id is present"
      end
    end

    def reply_fault(envelope)
      body = envelope["body"]
      return "v: expected 1" unless integer(envelope["v"]) == VERSION
      return "worker: expected a worker id" unless Keys.valid?(:worker, envelope["worker"])
      return "body: expected a JSON-RPC 2.0 response" unless body.is_a?(Hash) && body["jsonrpc"] == "2.0"
      return "body.id: expected the envelope's id" unless body["id"] == envelope["id"]
      return "body: expected either result or error" unless body.key?("result") ^ body.key?("error")

      "body.error: expected an integer code and a message" unless body.key?("result") || error?(body["error"])
    end

    def request(envelope)
      body = envelope["body"]
      Request.new(id: envelope["id"], reply_to: envelope["reply_to"], deadline: integer(envelope["deadline"]),
                  idempotent: envelope.fetch("idempotent", false), traceparent: envelope["traceparent"],
                  method_name: body["method"], params: body["params"])
    end

    # Counted in the bytes, as they need not be JSON: strings left out, and never below zero.
    def deeper_than?(levels, bytes)
      depth = 0
      bytes.b.gsub(/"(?>[^"\\]+|\\.)*+\\?"?/mn, "").delete("^[]{}").each_char do |bracket|
        depth = "[{".include?(bracket) ? depth + 1 : [depth - 1, 0].max
        return true if depth > levels
      end
      false
    end

    # @return [Rejection] answered if the head names an id and a reply_to [SABIR-LIMIT-3]
    def over_limit(bytes, message)
      head = JSON.parse("#{HEAD.match(bytes.b)&.to_s&.chop}}")
      known = Keys.valid?(:id, head["id"]) && Keys.valid?(:token, head["reply_to"])
      Rejection.new(LimitExceeded.new(message), *(head.values_at("id", "reply_to") if known))
    rescue JSON::ParserError
      Rejection.new(LimitExceeded.new(message))
    end

    # @raise [JSON::ParserError, EncodingError] not JSON, not UTF-8, or deeper than max_depth
    def parse(bytes, max_depth)
      text = utf8(bytes)
      value = JSON.parse(text, max_nesting: max_depth, allow_duplicate_key: true) # the last one wins [SABIR-JSON-3]
      raise JSON::ParserError, "not strict" unless text.valid_encoding? && strict?(bytes.b)

      value
    end

    # @param bytes [String] what a parser takes for JSON: strings are all closed
    def strict?(bytes)
      return false if bytes.include?("\\") && (bytes = bytes.gsub(ESCAPE, "")).include?("\\")
      return true unless bytes.include?("/") || (PASSES_CONTROL && bytes.count(CONTROL).positive?) # nor a comment

      outside, inside = bytes.split('"', -1).partition.with_index { |_, n| n.even? }
      outside.all?(OUTSIDE) && !(PASSES_CONTROL && inside.any? { |part| part.count(CONTROL).positive? })
    end

    # Its names are of their grammars: nothing in them is to be escaped.
    # @param member [String] result or error
    # @param text [String] its value
    def response(id, worker, member, text)
      %({"v":#{VERSION},"id":"#{id}","worker":"#{worker}","body":{"jsonrpc":"2.0","id":"#{id}","#{member}":#{text}}})
    end

    # @param levels [Integer] that the value may have
    # @return [String] JSON, with nothing changed in silence
    # @raise [ArgumentError, LimitExceeded]
    def json(name, value, levels)
      deeper(levels + 1) { portable(value, levels, name) }
      WRITER.generate(value)
    end

    # @raise [LimitExceeded]
    def bounded(text, max_bytes)
      return text if text.bytesize <= max_bytes

      raise LimitExceeded, "expected at most #{max_bytes} bytes, got #{text.bytesize}"
    end

    # JSON.generate would write a Symbol, a Time or a Set as a text, and equal names twice [SABIR-JSON-1].
    def portable(value, levels, name)
      case value
      when nil, true, false, Integer then nil
      when String then expect(name, "text", value) { text?(value) }
      when Float then expect(name, "a finite number", value) { value.finite? }
      when Array then deeper(levels) { value.each { |item| portable(item, levels - 1, name) } }
      when Hash then deeper(levels) { portable_hash(value, levels - 1, name) }
      else expect(name, "nil, true, false, a String, a number, an Array or a Hash", value) { false }
      end
    end

    def portable_hash(hash, levels, name)
      hash.each do |key, value|
        expect(name, "Strings or Symbols as names", key) { key.is_a?(Symbol) || (key.is_a?(String) && text?(key)) }
        portable(value, levels, key)
      end
      expect(name, "names that differ", hash) { hash.size < 2 || hash.keys.map(&:to_s).uniq.size == hash.size }
    end

    def deeper(levels)
      levels.positive? ? yield : raise(LimitExceeded, "nested too deep")
    end

    # The message never holds the payload.
    def expect(name, what, value)
      yield or raise ArgumentError, "#{name}: expected #{what}, got a #{value.class}"
    end

    # @api private
    # @return [Integer, nil] 1, 1.0 and 1e0 are the same integer; nil: none, or none that all languages read alike
    def integer(value)
      value = value.to_i if value.is_a?(Float) && value.finite? && value == value.floor
      value if value.is_a?(Integer) && value.abs <= MAX_INTEGER
    end

    def error?(value) = value.is_a?(Hash) && integer(value["code"]) && value["message"].is_a?(String)
    def traceparent?(value) = value.is_a?(String) && value.ascii_only? && TRACEPARENT.match?(value)
    def utf8(bytes) = bytes.dup.force_encoding(Encoding::UTF_8)

    def text?(string)
      return string.valid_encoding? if string.encoding == Encoding::UTF_8

      string.encode(Encoding::UTF_8).valid_encoding?
    rescue EncodingError
      false
    end

    private_class_method :fault, :envelope_fault, :body_fault, :reply_fault, :request, :deeper_than?, :over_limit,
                         :parse, :strict?, :response, :json, :bounded, :portable, :portable_hash, :deeper, :expect,
                         :error?, :traceparent?, :utf8, :text?
  end
end
