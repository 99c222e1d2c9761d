# frozen_string_literal: true

require_relative "connection"

module Sabir
  # Which of a worker's threads takes: one leads, the others follow.
  #
  # The leader runs what it has taken itself, and takes again when that has ended: so a handler that ends at once costs
  # no change of threads, and its reply leaves in the same write as the next take. The first of the followers looks
  # every moment; where a handler runs for longer than that, it leads instead. Where handlers have been slow lately,
  # the leader lets it do so at once.
  # @api private
  class Lead
    MOMENT_S = 0.001 # so long a handler may hold up what waits behind it
    LOOK_S = 0.005 # the same for the first slow one after many that were not: each look costs the leader some 80 µs
    REST_S = 0.005 # after so long without a handler nobody looks until the next one begins
    RARE = 0.01 # the share of slow handlers up to which that is so
    SLOW = 0.25 # the share of slow handlers, those of late counted most, from which on the leader does not wait
    MEMORY = 8 # handlers: one counts so much less than all before

    def initialize
      @lock = Mutex.new
      @line = [] # for all followers but the first: who came last is the next, and those who came before may rest
      @first = ConditionVariable.new # for the first
      @share = 0.0
      @ended = -Float::INFINITY
    end

    # Returns when this thread leads.
    def follow
      @lock.synchronize do
        line_up while @looks
        @looks = true
        look while @leader
        @looks = false
        @leader = Thread.current
        @line.pop&.signal
      end
    end

    # The leader begins a handler.
    # @return [Float] when, by {Clock.monotonic}
    def begin
      @lock.synchronize do
        @leader = nil if @looks && @share > SLOW
        @first.signal if @rests || @leader.nil?
        Clock.monotonic.tap { |now| @began = now if @leader }
      end
    end

    # A handler has ended.
    # @param began [Float]
    # @return [Boolean] whether the thread that ran it leads
    def end(began)
      @lock.synchronize do
        now = Clock.monotonic
        @share += ((now - began < MOMENT_S ? 0 : 1) - @share) / MEMORY
        next false unless @leader == Thread.current

        @began = nil
        @ended = now
        true
      end
    end

    # This thread does not lead any more.
    def resign
      @lock.synchronize do
        next unless @leader == Thread.current

        @leader = @began = nil
        @first.signal
      end
    end

    private

    def line_up
      turn = ConditionVariable.new
      @line.push(turn)
      turn.wait(@lock)
    ensure
      @line.delete(turn)
    end

    def look
      pause = pause_at(Clock.monotonic)
      return @leader = @began = nil if pause&.negative?

      @rests = pause.nil?
      @first.wait(@lock, pause)
      @rests = false
    end

    # @return [Float, nil] seconds until the leader's handler is slow, or has to be taken for it; or until it is time to
    #   look again; nil: never
    def pause_at(now)
      return (@share > SLOW ? 0 : @began + MOMENT_S) - now if @began

      (@share < RARE ? LOOK_S : MOMENT_S) if now - @ended < REST_S
    end
  end
end
