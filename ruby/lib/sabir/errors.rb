# frozen_string_literal: true

module Sabir
  # What every error of a call has in common. Of this class itself: a reserved code that this port does not know.
  class SabirError < StandardError
    CODE = nil
    OUTCOME = "may have run"
    RETRYABLE = false

    # @return [Integer] as in the response [SABIR-ERROR-5]
    attr_reader :code
    # @return [Object, nil] as in the response; nil also where it has none
    attr_reader :data

    # @param message [String, nil] nil: the name of the class
    def initialize(message = nil, code: self.class::CODE, data: nil)
      super(message)
      @code = code
      @data = data
    end

    # @return [String] what is known of the handler: "never started", "may have run" or "ran"
    def outcome = self.class::OUTCOME

    # @return [Boolean] whether the same request may be sent again
    def retryable? = self.class::RETRYABLE

    # @api private
    # @return [Class] for one row of the table
    def self.row(code, outcome, retryable: false)
      Class.new(self) do
        const_set(:CODE, code)
        const_set(:OUTCOME, outcome)
        const_set(:RETRYABLE, retryable)
      end
    end

    # @api private
    # Does without the constructor, whose parameters a subclass may have changed.
    # @return [SabirError] what a response says
    def self.from_response(code, message, data)
      allocate.exception(message).tap do |error|
        error.instance_variable_set(:@code, code)
        error.instance_variable_set(:@data, data)
      end
    end
  end

  # One class for each row of protocol/errors.json, under the same name; what each means stands there.
  ParseError = SabirError.row(-32_700, "never started")
  InvalidRequest = SabirError.row(-32_600, "never started")
  MethodNotFound = SabirError.row(-32_601, "never started")
  InvalidParams = SabirError.row(-32_602, "never started")
  InternalError = SabirError.row(-32_603, "ran")
  DeadlineExceeded = SabirError.row(-32_001, "never started", retryable: true)
  CallTimeout = SabirError.row(-32_002, "may have run")
  ServiceUnavailable = SabirError.row(-32_003, "never started", retryable: true)
  Overloaded = SabirError.row(-32_004, "never started", retryable: true)
  WorkerLost = SabirError.row(-32_005, "may have run")
  UnsupportedVersion = SabirError.row(-32_006, "never started")
  LimitExceeded = SabirError.row(-32_007, "never started")
  InvalidResult = SabirError.row(-32_008, "ran")
  ConnectionLost = SabirError.row(-32_009, "may have run")
  NotQueued = SabirError.row(-32_010, "never started", retryable: true)
  InvalidReply = SabirError.row(-32_011, "may have run")

  # What a handler raises on purpose: it reaches the caller with its code, message and data [SABIR-ERROR-2].
  #
  #   class TooPoor < Sabir::ApplicationError
  #     CODE = 1001
  #   end
  #   raise TooPoor.new("too poor", data: {missing: 3})
  class ApplicationError < SabirError
    CODE = 1
    OUTCOME = "ran"
  end

  # Code to class, and which codes are whose.
  module Errors
    # Codes that applications can't use.
    RESERVED = (-32_768..-32_000)
    BY_CODE = Sabir.constants.map { |name| Sabir.const_get(name) }
                   .select { |row| row.is_a?(Class) && row.superclass == SabirError && RESERVED.cover?(row::CODE) }
                   .to_h { |row| [row::CODE, row] }.freeze

    # @param own [Hash{Integer => Class}] the application's own classes by their codes
    # @return [SabirError] of the class that the code asks for [SABIR-ERROR-4]
    def self.build(code, message, data = nil, own: {})
      fallback = RESERVED.cover?(code) ? SabirError : own.fetch(code, ApplicationError)
      BY_CODE.fetch(code, fallback).from_response(code, message, data)
    end
  end
end
