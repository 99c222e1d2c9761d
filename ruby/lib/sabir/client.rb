# frozen_string_literal: true

require "securerandom"
require_relative "connection"
require_relative "errors"
require_relative "keys"
require_relative "messages"

module Sabir
  # Calls methods of services. Threads may share one; after a fork it makes connections of its own.
  class Client
    URL = "redis://127.0.0.1:6379/0"
    POOL = 16 # connections kept for later calls
    IDLE_S = 0.1 # after so long a connection is tried out before a request is risked on it
    CLOCK_S = 60.0 # after so long Redis is asked for its clock again [SABIR-TIME-2]
    LONGEST_S = 1_000_000_000 # the longest time-out
    SOME_MS = 1_000_000_000_000 # a time of as many digits as the real one

    # @param redis [Redis, nil] whose settings are used instead of url; nil: url
    # @param name [String] the first part of the tokens, to which an ACL can confine the client
    # @param timeout [Numeric] seconds that a call may take if it names none [SABIR-CALL-3]
    # @param errors [Array<Class>] subclasses of {ApplicationError} to raise for their CODE
    # @raise [ArgumentError] a name outside its grammar, or a time-out that is none
    def initialize(url: URL, redis: nil, namespace: "sabir", name: "client", timeout: 30, errors: [],
                   max_bytes: Messages::MAX_BYTES, max_depth: Messages::MAX_DEPTH)
      @namespace = Keys.check(:namespace, namespace)
      @name = Keys.check(:name, name)
      @timeout = seconds(timeout)
      @errors = errors.to_h { |error| [error::CODE, error] }
      @limits = { max_bytes: max_bytes, max_depth: max_depth }
      @clock = Clock.new
      @connect = -> { Connection.new(url, redis, @clock) }
      @idle = []
      @lock = Mutex.new
      @pid = Process.pid
    end

    # @param timeout [Numeric, nil] seconds that each call may take; nil: as the client has it
    # @return [Proxy] whose methods are the service's
    # @raise [ArgumentError] a name outside its grammar, or a time-out that is none
    def service(name, timeout: nil, idempotent: false)
      Proxy.new(self, Keys.new(@namespace, name).service, timeout: timeout && seconds(timeout), idempotent: idempotent)
    end

    # @param params [Array, Hash, nil] positional, named, none
    # @param timeout [Numeric, nil] seconds; nil: as the client has it
    # @param idempotent [Boolean] running it twice does no harm, so it is sent again when a connection is lost
    # @param traceparent [String, nil] W3C Trace Context; nil: that of the request that is being handled, if any
    # @return [Object] the result
    # @raise [SabirError] what the worker answered, or why there is no answer
    # @raise [ArgumentError] a name outside its grammar, a time-out that is none, a value that JSON does not have
    def call(service, method, params = nil, timeout: nil, idempotent: false, traceparent: nil)
      options = { timeout: timeout, idempotent: idempotent, traceparent: traceparent }
      outcome = many(service, [[method, params]], **options).first
      outcome.is_a?(SabirError) ? raise(outcome) : outcome
    end

    # Many calls in one RPUSH, which the workers share.
    # @param requests [Array<Array(String, Array | Hash | nil)>] the method and the parameters of each
    # @param timeout [Numeric, nil] seconds for all of them; nil: as the client has it
    # @return [Array<Object, SabirError>] the results in order; a call that failed has its error in its place
    # @raise [ArgumentError, LimitExceeded] as in {#call}: then nothing has been sent
    def many(service, requests, timeout: nil, idempotent: false, traceparent: nil)
      context = Sabir.context
      limit = [seconds(timeout || @timeout), context&.time_left].compact.min # [SABIR-TIME-5]
      return requests.map { DeadlineExceeded.new("no time left to call it") } unless limit.positive?

      token = "#{@name}.#{SecureRandom.hex(8)}" # for this call alone: no old connection can rob it [SABIR-TOKEN-1]
      ids = requests.map { SecureRandom.hex(16) }
      common = { reply_to: token, idempotent: idempotent, traceparent: traceparent || context&.traceparent }
      answers, error = deliver(Keys.new(@namespace, service), token, ids, limit, idempotent) do |now, left|
        ends = now + (left * 1000).floor # [SABIR-CALL-5]
        requests.zip(ids).map { |(method, params), id| encode(id, method, params, deadline: ends, **common) }
      end
      ids.map { |id| answers.fetch(id, error) }
    end

    # Sends a request that nobody answers.
    # @param expires [Numeric, nil] seconds after which it is not started any more; nil: never
    # @return [String] its id
    # @raise [NotQueued, ConnectionLost] it was not sent; it may have been
    # @raise [ArgumentError, LimitExceeded] as in {#call}
    def notify(service, method, params = nil, expires: nil, traceparent: Sabir.context&.traceparent)
      expires &&= seconds(expires)
      id = SecureRandom.hex(16)
      _, error = deliver(Keys.new(@namespace, service), nil, [], @timeout, false) do |now, _|
        [encode(id, method, params, deadline: expires && (now + (expires * 1000).ceil), traceparent: traceparent)]
      end
      error ? raise(error) : id
    end

    # Closes the connections that no call is using; a later call makes a new one.
    def close = @lock.synchronize { @idle.pop.close until @idle.empty? }

    # @api private
    # @return [Connection] ready to send on, with Redis's clock at hand
    # @raise [Connection::Lost]
    def ready(line, patience)
      line ||= @lock.synchronize { (Process.pid == @pid ? @idle : after_fork).pop } || @connect.call
      line.reopen(patience) unless line.open? && fresh?(line, patience)
      line
    end

    # @api private
    def keep(line)
      return unless line&.open?

      @lock.synchronize { @idle.size < POOL ? @idle.push(line) : line.close }
    end

    private

    # @yield [now, left] Redis's clock in ms, and the seconds that are left
    # @yieldreturn [Array<String>] the elements
    # @return [Array(Hash{String => Object}, SabirError)] what came of the calls, and what became of those not in it
    def deliver(keys, token, ids, limit, idempotent)
      finish = Clock.monotonic + limit
      encode = ->(now = @clock.now_ms) { yield now, finish - Clock.monotonic }
      elements = @clock.fresh?(CLOCK_S) ? encode.call : encode.call(SOME_MS) && nil # refuses before anything is sent
      Delivery.new(self, keys, token, ids, finish, idempotent, @errors) { elements ||= encode.call }.run
    end

    def encode(id, method, params, **envelope)
      Messages.encode_request(id: id, method: method.to_s, params: params, **envelope, **@limits)
    end

    # @raise [ArgumentError] [SABIR-CALL-4]
    def seconds(value)
      return value.to_f if value.is_a?(Numeric) && value.real? && value.positive? && value <= LONGEST_S

      raise ArgumentError, "timeout: expected a number of seconds > 0 and <= #{LONGEST_S}, got #{value.inspect}"
    end

    # Whether a connection may be trusted with a request: one that has been idle is tried out first [SABIR-LOST-6].
    def fresh?(line, patience)
      return true if line.idle < IDLE_S && @clock.fresh?(CLOCK_S)

      @clock.set(Connection.value(line.exchange(Commands.clock, patience).first), line.sent)
    rescue Connection::Lost, Connection::Refused
      false
    end

    # The parent's connections are the parent's: not even a goodbye may be said on them.
    def after_fork
      @pid = Process.pid
      @idle = []
    end
  end

  # One RPUSH, and the wait for what comes of it.
  # @api private
  class Delivery
    BLOCK_S = 5.0 # the longest block of a BLPOP
    MARGIN_S = 2.0 # how much longer Redis may take to answer
    LATE_S = 0.5 # how long after its time-out a call may still end; less than [SABIR-CALL-2] has
    # The error replies after which the same request may well be taken.
    TRANSIENT = /\A(?:LOADING|BUSY|READONLY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|NOREPLICAS)\b/

    # @yieldreturn [Array<String>] the elements, once there is a connection
    def initialize(client, keys, token, ids, finish, idempotent, errors, &elements)
      @client = client
      @keys = keys
      @token = token
      @waiting = ids.to_h { |id| [id, true] }
      @finish = finish
      @idempotent = idempotent
      @errors = errors
      @elements = elements
      @answers = {}
      @attempt = 0
    end

    # @return [Array(Hash{String => Object}, SabirError)]
    def run
      step until done? || left <= 0
      [@answers, (failure unless done?)]
    rescue Connection::Lost, Connection::Refused => e
      @trouble = e.message
      again?(e) ? retry : [@answers, failure]
    ensure
      @client.keep(@line)
    end

    private

    def left = @finish - Clock.monotonic
    def done? = @waiting.empty? && (@accepted || @token)

    def step
      @line = @client.ready(@line, [MARGIN_S, (left + LATE_S) / 3].min)
      block = left.clamp(0.001, BLOCK_S)
      pushing = !@sent
      commands = pushing ? Commands.push(@keys, @elements.call) : []
      commands += Commands.wait(@keys, @token, (block * 1000).ceil) if @token
      @sent = true # from here on it may be in the queue [SABIR-LOST-1]
      replies = @line.exchange(commands, block + [MARGIN_S, left - block + LATE_S].min) do |reply|
        accept(reply) if pushing && !@accepted # before the answer of BLPOP comes
      end
      receive(Connection.value(replies.last)) if @token
      @attempt = 0
      @trouble = nil
    end

    def accept(reply)
      @sent = @accepted = !reply.is_a?(Exception)
      Connection.value(reply)
    end

    def receive(popped)
      reply = popped && Messages.decode_reply(popped.last, own: @errors)
      return unless reply && @waiting.delete(reply.id) # late, or nobody's [SABIR-REPLY-4]

      @answers[reply.id] = reply.error || reply.result
    end

    # Waits a little, if that may help.
    def again?(error)
      return false if @sent && !@token # a notification: sent, perhaps
      return false if error.is_a?(Connection::Refused) && !@sent && !TRANSIENT.match?(error.message) # [SABIR-LOST-5]

      @risked ||= @sent && !@accepted # it may be in the queue, whatever becomes of the next one [SABIR-LOST-5]
      @sent &&= @accepted || !@idempotent
      sleep(Connection.pause(@attempt += 1).clamp(0, [left, 0].max))
      left.positive?
    end

    def failure
      return NotQueued.new("not queued: #{@trouble || "no time left"}") unless @sent || @risked
      return ConnectionLost.new("connection lost: #{@trouble}") unless @line.open? && @token

      CallTimeout.new("no reply in time#{" (#{@trouble})" if @trouble}")
    end
  end

  # A service as an object: every method of it is one of the service's, and takes positional or named parameters.
  #
  # Local are only what Ruby itself asks of any object. Methods of those names, and names that Ruby can't write, are
  # reached by {Client#call}.
  class Proxy < BasicObject
    # What Ruby asks an object in silence, to see whether it can be used as something else.
    CONVERSIONS = %i[to_ary to_a to_hash to_h to_str to_proc to_io to_path to_int to_sym to_regexp to_r marshal_dump
                     _dump respond_to_missing?].freeze

    def initialize(client, service, **options)
      @client = client
      @service = service
      @options = options
    end

    # @return [String]
    def inspect = "#<Sabir::Proxy #{@service}>"
    alias to_s inspect

    # @return [Boolean]
    def respond_to?(name, _all = false) = !CONVERSIONS.include?(name.to_sym) # rubocop:disable Style/OptionalBooleanParameter

    undef_method :instance_eval, :instance_exec, :equal?

    private

    def method_missing(name, *args, **named, &block) # rubocop:disable Style/MissingRespondToMissing
      ::Kernel.raise ::NoMethodError, "#{inspect} has no local method #{name}" if CONVERSIONS.include?(name)
      ::Kernel.raise ::ArgumentError, "#{name}: expected no block" if block
      ::Kernel.raise ::ArgumentError, "#{name}: expected positional or named parameters" if args.any? && named.any?

      @client.call(@service, name, named.empty? ? args : named, **@options)
    end
  end
end
