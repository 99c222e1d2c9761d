# frozen_string_literal: true

require "securerandom"
require_relative "connection"
require_relative "delivery"
require_relative "errors"
require_relative "keys"
require_relative "messages"

module Sabir
  # Calls methods of services. Threads may share one; after a fork it makes connections of its own.
  class Client
    URL = "redis://127.0.0.1:6379/0"
    KEPT_S = 10.0 # so long an idle connection is kept for later calls
    IDLE_S = 0.1 # after so long a connection is tried out before a request is risked on it
    CLOCK_S = 60.0 # after so long Redis is asked for its clock again [SABIR-TIME-2]
    KNOWN = 1_000 # services whose keys are kept
    LONGEST_S = 1_000_000_000 # the longest time-out
    SOME_MS = 1_000_000_000_000 # a time of as many digits as the real one
    ASKING_S = 0.02..0.25 # the pauses in which {#wait_for_service} asks
    ATTEMPT_S = 0.05 # what an attempt of {#retry} has at least: a shorter one says less than the error before it
    PARTING_S = 0.5 # for the last words on a connection

    # @param redis [Redis, nil] whose settings are used instead of url; nil: url
    # @param name [String] the first part of the tokens, to which an ACL can confine the client
    # @param timeout [Numeric] seconds that a call may take if it names none [SABIR-CALL-3]
    # @param errors [Array<Class>] subclasses of {ApplicationError} to raise for their CODE
    # @param max_queue [Integer, nil] elements that may wait for a service, those of the call included; nil: no bound
    #   [SABIR-QUEUE-1]
    # @raise [ArgumentError] a name outside its grammar, a time-out or a bound that is none
    def initialize(url: URL, redis: nil, namespace: "sabir", name: "client", timeout: 30, errors: [],
                   max_queue: 100_000, max_bytes: Messages::MAX_BYTES, max_depth: Messages::MAX_DEPTH)
      @namespace = Keys.check(:namespace, namespace)
      @name = Keys.check(:name, name)
      @timeout = seconds(timeout)
      @errors = errors.to_h { |error| [error::CODE, error] }
      @max_queue = bound(max_queue)
      @max_bytes = max_bytes
      @max_depth = max_depth
      @clock = Clock.new
      @connect = -> { Connection.new(url, redis, @clock) }
      @idle = []
      @keys = {} # by the service
      @served = {} # service => whether `alive` existed when it was last asked for
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
    # @param idempotent [Boolean] running it twice does no harm, so it is delivered again when its worker is lost
    # @param traceparent [String, nil] W3C Trace Context; nil: that of the request that is being handled, if any
    # @return [Object] the result
    # @raise [SabirError] what the worker answered, or why there is no answer
    # @raise [ArgumentError] a name outside its grammar, a time-out that is none, a value that JSON does not have
    def call(service, method, params = nil, timeout: nil, idempotent: false, traceparent: nil)
      outcome, = many(service, [[method, params]], timeout: timeout, idempotent: idempotent, traceparent: traceparent)
      outcome.is_a?(SabirError) ? raise(outcome) : outcome
    end

    # Many calls in one RPUSH, which the workers share.
    # @param requests [Array<Array(String, Array | Hash | nil)>] the method and the parameters of each
    # @param timeout [Numeric, nil] seconds for all of them; nil: as the client has it
    # @return [Array<Object, SabirError>] the results in order; a call that failed has its error in its place
    # @raise [ArgumentError, LimitExceeded] as in {#call}: then nothing has been sent
    def many(service, requests, timeout: nil, idempotent: false, traceparent: nil)
      context = Sabir.context
      limit = time_for(timeout)
      return requests.map { DeadlineExceeded.new("no time left to call it") } unless limit.positive?

      random = SecureRandom.hex(8 + (16 * requests.size))
      token = "#{@name}.#{random[0, 16]}" # for this call alone: no old connection can rob it [SABIR-TOKEN-1]
      ids = Array.new(requests.size) { |n| random[16 + (32 * n), 32] }
      traceparent ||= context&.traceparent
      deliver(keys(service), token, ids, limit, idempotent) do |now, left|
        ends = now + (left * 1000).floor # [SABIR-CALL-5]
        requests.zip(ids).map do |(method, params), id|
          encode(id, method, params, token: token, deadline: ends, idempotent: idempotent, traceparent: traceparent)
        end
      end
    end

    # Calls again, with growing pauses and within one time-out, while the error is retryable, or says "may have run" of
    # an idempotent call [SABIR-RETRY-1]. Takes what {#call} takes.
    # @return [Object] the result
    # @raise [SabirError] the last error
    # @raise [ArgumentError] as in {#call}
    def retry(service, method, params = nil, timeout: nil, idempotent: false, traceparent: nil)
      finish = Clock.monotonic + time_for(timeout)
      1.step do |attempt|
        left = [finish - Clock.monotonic, 0.001].max
        return call(service, method, params, timeout: left, idempotent: idempotent, traceparent: traceparent)
      rescue SabirError => e
        left = finish - Clock.monotonic
        raise unless left >= 2 * ATTEMPT_S && (e.retryable? || (idempotent && e.outcome == "may have run"))

        sleep([Connection.pause(attempt) * rand(0.5..1.0), left / 2].min)
      end
    end

    # Waits until somebody serves, for programs that start in any order.
    # @param timeout [Numeric, nil] seconds; nil: as the client has it
    # @return [nil]
    # @raise [ServiceUnavailable, NotQueued] not in time; Redis can't be reached, or does not tell
    # @raise [ArgumentError] a name outside its grammar, or a time-out that is none
    def wait_for_service(service, timeout: nil)
      keys = Keys.new(@namespace, service)
      finish = Clock.monotonic + time_for(timeout)
      pause = ASKING_S.begin
      known = nil
      while (trouble, passes = unserved(keys, finish))
        left = finish - Clock.monotonic
        known = trouble if left.positive? || known.nil? # a look that the end cut short has found out nothing
        raise known unless passes && left.positive?

        sleep([pause, left].min)
        pause = (pause * 2).clamp(ASKING_S)
      end
    end

    # Sends a request that nobody answers.
    # @param expires [Numeric, nil] seconds after which it is not started any more; nil: never
    # @param idempotent [Boolean] as in {#call}
    # @return [String] its id
    # @raise [NotQueued, Overloaded] it was not sent, or taken back
    # @raise [ConnectionLost, WorkerLost] it may have been sent; it was sent twice, and one taken back
    # @raise [ArgumentError, LimitExceeded] as in {#call}
    def notify(service, method, params = nil, expires: nil, idempotent: false, traceparent: Sabir.context&.traceparent)
      expires &&= seconds(expires)
      id = SecureRandom.hex(16)
      outcome = deliver(keys(service), nil, [id], @timeout, idempotent) do |now, _|
        deadline = expires && (now + (expires * 1000).ceil)
        [encode(id, method, params, token: nil, deadline: deadline, idempotent: idempotent, traceparent: traceparent)]
      end.first
      outcome.is_a?(SabirError) ? raise(outcome) : id
    end

    # Closes the connections that no call is using; a later call makes a new one.
    def close
      lines = @lock.synchronize { (Process.pid == @pid ? @idle : after_fork).tap { @idle = [] } }
      lines.each { |line| line.finish(PARTING_S) } # [SABIR-WAIT-2]
    end

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

      stale = @lock.synchronize do
        @idle.push(line) # and taken from the same end: what is not needed any more stays in front
        @idle.shift if @idle.first.idle > KEPT_S
      end
      stale&.finish(PARTING_S)
    end

    private

    # @raise [ArgumentError] a name outside its grammar
    def keys(service)
      @keys.clear if @keys.size > KNOWN
      @keys[service] ||= Keys.new(@namespace, service)
    end

    # @yield [now, left] Redis's clock in ms, and the seconds that are left
    # @yieldreturn [Array<String>] the elements
    # @return [Array<Object, SabirError>] what came of each id
    def deliver(keys, token, ids, limit, idempotent)
      finish = Clock.monotonic + limit
      encode = ->(now = @clock.now_ms) { yield now, finish - Clock.monotonic }
      elements = @clock.fresh?(CLOCK_S) ? encode.call : encode.call(SOME_MS) && nil # refuses before anything is sent
      options = { idempotent: idempotent, bound: @max_queue }
      options.update(token: token, own: @errors, served: @served) if token
      (token ? Calls : Delivery).new(self, keys, ids, finish, **options) { elements ||= encode.call }.run
    end

    def encode(id, method, params, token:, deadline:, idempotent:, traceparent:)
      Messages.encode_request(id: id, method: method.to_s, params: params, reply_to: token, deadline: deadline,
                              idempotent: idempotent, traceparent: traceparent,
                              max_bytes: @max_bytes, max_depth: @max_depth)
    end

    # @raise [ArgumentError] [SABIR-CALL-4]
    def seconds(value)
      return value.to_f if value.is_a?(Numeric) && value.real? && value.positive? && value <= LONGEST_S

      raise ArgumentError, "timeout: expected a number of seconds > 0 and <= #{LONGEST_S}, got #{value.inspect}"
    end

    # @return [Float] seconds, no more than the request that is being handled has left [SABIR-TIME-5]
    def time_for(timeout)
      limit = timeout ? seconds(timeout) : @timeout
      left = Sabir.context&.time_left
      left && left < limit ? left : limit
    end

    def bound(value)
      return value if value.nil? || (value.is_a?(Integer) && value.positive?)

      raise ArgumentError, "max_queue: expected an integer > 0 or nil, got #{value.inspect}"
    end

    # @return [Array(SabirError, Boolean), nil] why nobody serves, and whether it may pass; nil: somebody does
    def unserved(keys, finish)
      patience = (finish - Clock.monotonic).clamp(0.001, Delivery::MARGIN_S)
      line = ready(nil, patience)
      alive = Connection.value(line.exchange(Commands.ask_alive(keys), patience).first)
      [ServiceUnavailable.new("no worker serves #{keys.service}"), true] if alive.zero?
    rescue Connection::Lost, Connection::Refused => e
      [NotQueued.new("not known whether #{keys.service} is served: #{e.message}"),
       e.is_a?(Connection::Lost) || Delivery::TRANSIENT.match?(e.message)]
    ensure
      keep(line)
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
