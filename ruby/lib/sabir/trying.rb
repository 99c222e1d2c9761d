# frozen_string_literal: true

require_relative "connection"

module Sabir
  # A flag that threads can wait for.
  # @api private
  class Flag
    def initialize
      @lock = Mutex.new
      @raised = ConditionVariable.new
      @up = false
    end

    def up? = @up

    def raise!
      @lock.synchronize do
        @up = true
        @raised.broadcast
      end
    end

    # @param seconds [Float, nil] at most so long, less when a signal comes; nil: for ever
    # @return [Boolean] whether it is up
    def wait(seconds)
      @lock.synchronize do
        @raised.wait(@lock, seconds) unless @up
        @up
      end
    end
  end

  # Tries again what Redis refuses, or does not answer, with a growing pause [SABIR-WORKER-6]; and says so once, not at
  # each attempt.
  # @api private
  class Trying
    def initialize(logger)
      @logger = logger
      @troubles = {}
    end

    # @param flag [Flag, nil] that ends it; nil: none
    # @param longest [Float] seconds of the longest pause
    # @return [Object, nil] what the block returns; nil: the flag is up, or the tries are used up
    def call(what, flag = nil, tries: Float::INFINITY, longest: Connection::PAUSES.last)
      attempt = 0
      begin
        result = yield
        @logger.warn("#{what}: works again") if @troubles.delete(what)
        result
      rescue Connection::Lost, Connection::Refused => e
        trouble(what, e)
        pause = [Connection.pause(attempt += 1), longest].min
        return if attempt >= tries || (flag ? flag.wait(pause) : sleep(pause).nil?)

        retry
      end
    end

    private

    def trouble(what, error)
      @logger.warn("#{what}: #{error.message}; trying again") unless @troubles[what]
      @troubles[what] = true
    end
  end
end
