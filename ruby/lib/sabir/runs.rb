# frozen_string_literal: true

require_relative "connection"

module Sabir
  # The handlers that run, each in a thread of its own, and those of them that have run too long.
  # @api private
  class Runs
    Run = Struct.new(:taken, :request, :ends)

    # @return [Numeric, nil] seconds that a handler may run; nil: none is watched
    attr_reader :limit

    # @raise [ArgumentError] the limit is none
    def initialize(limit)
      unless limit.nil? || (limit.is_a?(Numeric) && limit.real? && limit.finite? && limit.positive?)
        raise ArgumentError, "handler_timeout: expected a number of seconds > 0 or nil, got #{limit.inspect}"
      end

      @limit = limit
      @lock = Mutex.new
      @running = {}
      @late = {}
    end

    # This thread begins a handler.
    def start(taken, request)
      return unless @limit

      @lock.synchronize { @running[Thread.current] = Run.new(taken, request, Clock.monotonic + @limit) }
    end

    # This thread's handler has ended.
    # @return [Boolean] whether it was in time; if not, its result is nobody's
    def finish
      return true unless @limit

      @lock.synchronize do
        @running.delete(Thread.current)
        @late.delete(Thread.current).nil?
      end
    end

    # @param now [Float] by {Clock.monotonic}
    # @return [Array<Run>] those that are late from now on [SABIR-RUN-1]
    def overdue(now)
      @lock.synchronize do
        late, @running = @running.partition { |_, run| run.ends <= now }.map(&:to_h)
        @late.update(late)
        late.values
      end
    end

    # @return [Float] seconds until one can be late
    def next_in(now)
      ends = @lock.synchronize { @running.values.map(&:ends) }
      [(ends << (now + @limit)).min - now, 0.001].max
    end

    # @return [Integer] how many are late and have not ended
    def late = @lock.synchronize { @late.size }

    # @return [Boolean] whether it runs a handler that is late
    def late?(thread) = @lock.synchronize { @late.key?(thread) }
  end
end
