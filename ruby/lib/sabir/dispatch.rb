# frozen_string_literal: true

require_relative "errors"
require_relative "keys"
require_relative "messages"

module Sabir
  # What a handler can ask about the request that it handles: Sabir.context.
  class Context
    KEY = :sabir_context # a variable of the thread, not of the fiber: an Enumerator in a handler still finds it

    # @return [Context, nil] nil: this thread runs no handler
    def self.current = Thread.current.thread_variable_get(KEY)

    # @api private
    def self.with(context)
      outer = current
      Thread.current.thread_variable_set(KEY, context)
      yield
    ensure
      Thread.current.thread_variable_set(KEY, outer)
    end

    # @return [String]
    attr_reader :service, :worker

    # @return [Integer] 1: it is delivered for the first time; more only if it is idempotent [SABIR-ATTEMPT-2]
    attr_reader :attempt

    def initialize(request, service, worker, clock, attempt = 1)
      @request = request
      @service = service
      @worker = worker
      @clock = clock
      @attempt = attempt
    end

    # @return [String] the request's id
    def id = @request.id

    # @return [String] the name that was called
    def method = @request.method_name

    # @return [String, nil] the client's name; nil in a notification
    def caller = @request.reply_to&.split(".")&.first

    # @return [String, nil] W3C Trace Context, as it came; nil: there is none
    def traceparent = @request.traceparent

    # @return [Integer, nil] ms of Redis's clock; nil: there is none
    def deadline = @request.deadline

    # @return [Float, nil] seconds until the deadline, 0.0 when it has come; nil: there is none
    def time_left = deadline && [(deadline - @clock.now_ms) / 1000.0, 0.0].max
  end

  # A handler, and whether parameters fit it, which is known before it is called [SABIR-BODY-4].
  # @api private
  class Handler
    def initialize(callable)
      @callable = strict(callable)
      parameters = (@callable.respond_to?(:parameters) ? @callable : @callable.method(:call)).parameters
      @required, @optional, @required_keywords = %i[req opt keyreq].map { |kind| named(parameters, kind) }
      @positional = named(parameters, :req, :opt)
      @keywords = named(parameters, :keyreq, :key)
      @rest, @any_keyword = %i[rest keyrest].map { |kind| parameters.assoc(kind) }
    end

    # @param params [Array, Hash, nil]
    # @return [Array(Array, Hash)] positional arguments and keyword arguments
    # @raise [InvalidParams]
    def fit(params)
      args, keywords = params.is_a?(Hash) ? by_name(params) : by_position(params || [])
      refuse_missing(@required_keywords - keywords.keys)
      [args, keywords]
    end

    def call(args, keywords) = @callable.call(*args, **keywords)

    private

    # A block takes too few or too many arguments without a word, and takes an Array apart. As a method it is strict;
    # its self stays what it was.
    def strict(callable)
      return callable if !callable.is_a?(Proc) || callable.lambda?

      Module.new { define_method(:call, &callable) }.instance_method(:call).bind(callable.binding.receiver)
    end

    def named(parameters, *kinds) = parameters.filter_map { |kind, name| name || :"" if kinds.include?(kind) }

    # In declared order: positional parameters first, then keywords.
    def by_position(values)
      least = @required.size
      most = @rest ? Float::INFINITY : @positional.size + @keywords.size
      unless values.size.between?(least, most)
        raise InvalidParams, "expected #{[least, most].uniq.join(" to ")} parameters, got #{values.size}"
      end
      return [values, {}] if @rest

      [values.take(@positional.size), values.drop(@positional.size).zip(@keywords).to_h(&:reverse)]
    end

    def by_name(values)
      known = (@positional + @keywords).to_h { |name| [name.to_s, name] }
      unknown = @any_keyword ? [] : values.keys - known.keys
      raise InvalidParams, "expected only #{known.keys.join(", ")}, got #{unknown.size} unknown" if unknown.any?

      keywords = values.transform_keys { |name| known.fetch(name) { name.to_sym } }
      last = @optional.rindex { |name| keywords.key?(name) } || 0 # only those behind it can be left out
      refuse_missing(@required + @optional.first(last) - keywords.keys)
      [keywords.values_at(*(@positional & keywords.keys)), keywords.except(*@positional)]
    end

    def refuse_missing(names)
      raise InvalidParams, "expected #{names.join(", ")}, got none" if names.any?
    end
  end

  # The methods of a service, and what becomes of an element. Needs no Redis.
  # @api private
  class Dispatcher
    TEXT = 1_000 # characters of an internal error's message

    # What to write for an element: a reply, a dead letter, or (all nil) neither.
    Outcome = Struct.new(:reply_to, :reply, :letter)

    def initialize(service, traces, logger, limits)
      @service = service
      @traces = traces
      @logger = logger
      @limits = limits
      @handlers = {}
    end

    # @raise [ArgumentError] a name outside its grammar, kept for the protocol or registered before; nothing to call
    def register(name, callable)
      Keys.check(:method, name)
      raise ArgumentError, "method: expected no name that begins with rpc., got #{name}" if name.start_with?("rpc.")
      raise ArgumentError, "method: #{name} is registered already" if @handlers.key?(name)
      raise ArgumentError, "method: expected a block for #{name}" unless callable

      @handlers[name] = Handler.new(callable)
    end

    # @param element [String] the bytes that were read
    # @param clock [#now_ms] Redis's
    # @yield [request] a {Messages::Request} or {Messages::Rejection}, before anything of it is judged or started
    # @yieldreturn [Integer] how many deliveries of it were lost with their worker
    # @return [Outcome]
    def process(element, worker, clock)
      request = Messages.decode_request(element, **@limits)
      lost = yield request
      raise request.error if request.is_a?(Messages::Rejection)

      result = run(request, worker, clock, lost + 1)
      request.reply_to ? Outcome.new(request.reply_to, encode_result(request.id, worker, result)) : Outcome.new
    rescue StandardError => e # whatever bytes come in, and whatever fault this port may have [SABIR-WORKER-5]
      error = e.is_a?(SabirError) ? e : InternalError.new(describe(e))
      refuse(element, request, lost&.positive? ? of_a_later_delivery(error) : error, worker, clock)
    end

    # @param limit [Float] seconds that the handler has run, and longer [SABIR-RUN-1]
    # @return [Outcome]
    def give_up(element, request, limit, worker, clock)
      refuse(element, request, InternalError.new("ran longer than #{limit} s"), worker, clock)
    end

    private

    def run(request, worker, clock, attempt)
      raise DeadlineExceeded, "the deadline has come" if request.deadline&.<= clock.now_ms # [SABIR-TIME-3]

      name = request.method_name
      handler = @handlers.fetch(name) { raise MethodNotFound, "no method #{name}" } # nowhere else [SABIR-BODY-3]
      arguments = handler.fit(request.params)
      Context.with(Context.new(request, @service, worker, clock, attempt)) { call(handler, *arguments) }
    end

    def call(handler, args, keywords)
      handler.call(args, keywords)
    rescue ApplicationError => e
      raise if Messages.integer(e.code) && !Errors::RESERVED.cover?(e.code)

      raise InternalError, "#{e.class}: expected an integer outside #{Errors::RESERVED} as its code" # [SABIR-ERROR-3]
    rescue Exception => e # rubocop:disable Lint/RescueException -- no handler ends a worker, not by `exit` either
      raise InternalError.new(describe(e), data: (@traces ? { trace: e.backtrace } : nil)) # [SABIR-ERROR-1]
    end

    # It may have run before, whatever this delivery came to [SABIR-ATTEMPT-1].
    def of_a_later_delivery(error)
      return error unless error.outcome == "never started"

      WorkerLost.new("the worker that had it before was lost; delivered again: #{error.message}")
    end

    def encode_result(id, worker, result)
      Messages.encode_result(id: id, worker: worker, result: result, **@limits)
    rescue ArgumentError, LimitExceeded => e
      raise InvalidResult, e.message # [SABIR-LIMIT-4]
    end

    # Answers a call; makes a dead letter of anything else [SABIR-DEAD-1, SABIR-DEAD-2].
    def refuse(element, request, error, worker, clock, limits = @limits)
      level = error.is_a?(ApplicationError) ? Logger::INFO : Logger::WARN
      @logger.add(level) { "#{@service}: request #{request&.id || "without an id"}: #{error.class}" }
      parts = { worker: worker, code: error.code, message: text(error.message), data: error.data }
      if request&.reply_to
        Outcome.new(request.reply_to, Messages.encode_error(id: request.id, **parts, **limits))
      else
        Outcome.new(nil, nil, Messages.encode_dead_letter(at: clock.now_ms, element: element, **parts))
      end
    rescue ArgumentError, LimitExceeded # because of its data, or its length
      refuse(element, request, InternalError.new("#{error.class}: can't be sent"), worker, clock, {})
    end

    def describe(error)
      text("#{error.class}: #{error.message}")[0, TEXT]
    rescue StandardError # its message is the application's
      error.class.to_s
    end

    def text(message) = message.to_s.encode(Encoding::UTF_8, invalid: :replace, undef: :replace).scrub
  end
end
